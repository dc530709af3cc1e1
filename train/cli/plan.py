"""`plan`: compiles a training step for other hardware, and reports on it."""

from train.cli.arguments import parse
from train.cli.choose_recipe import required_recipe
from train.cli.usage import PLAN_HELP
from train.config.effects import check_effects
from train.console import warn


def plan(args: list[str]) -> None:
    """Compiles a recipe's training step ahead of time, and prints the report."""
    from train.plan import planner
    from train.plan.report import render

    usage = "plan RECIPE --topology CHIPS"
    recipe, options = required_recipe(args, usage, default="imagenet-resnet50")
    given: planner.PlanArgs = parse(
        f"plan {recipe.recipe}",
        PLAN_HELP,
        planner.PlanArgs,
        planner.PlanArgs(recipe),
        options,
        usage=usage,
    )
    warn(*check_effects(given.config, recipe))
    print(render(planner.plan(given)))
