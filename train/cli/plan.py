"""`plan`: compiles a training step for other hardware, and reports on it."""

from train.cli.arguments import HELP, parse, take_preset
from train.cli.choose_recipe import take_recipe
from train.cli.usage import PLAN_HELP
from train.config import ConfigError
from train.config.effects import check_effects
from train.console import warn
from train.recipes import get_recipe


def plan(args: list[str]) -> None:
    """Compiles a recipe's training step ahead of time, and prints the report."""
    from train.plan import planner
    from train.plan.report import render

    name, options = take_recipe(args)
    if name is None and not set(HELP) & set(args):
        raise ConfigError(
            "the recipe is missing: resnet-jax plan RECIPE --topology CHIPS; "
            "`resnet-jax recipes` lists them"
        )
    recipe, options = take_preset(get_recipe(name or "imagenet-resnet50"), options)
    given: planner.PlanArgs = parse(
        f"plan {name}",
        PLAN_HELP,
        planner.PlanArgs,
        planner.PlanArgs(recipe),
        options,
        usage="plan RECIPE --topology CHIPS",
    )
    warn(*check_effects(given.config, recipe))
    print(render(planner.plan(given)))
