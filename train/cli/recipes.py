"""`recipes`: lists the recipes, or shows one of them and what differs from its parent."""

from train.cli.arguments import HELP
from train.config import ConfigError


def recipes(args: list[str]) -> None:
    """Prints all recipes, or the recipe of a name."""
    if set(HELP) & set(args):
        print("usage: resnet-jax recipes [NAME]")
        return
    if len(args) > 1:
        raise ConfigError(f"recipes takes one name, not {len(args)}; without a name, it lists all")
    from train.cli.tables import print_recipe, print_recipes

    if args:
        print_recipe(args[0])
    else:
        print_recipes()
