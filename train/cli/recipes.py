"""`recipes`: lists the recipes, and the result to expect of each."""

from train.cli.arguments import HELP
from train.config import ConfigError


def recipes(args: list[str]) -> None:
    """Prints all recipes."""
    if set(HELP) & set(args):
        print("usage: resnet-jax recipes")
        return
    if args:
        raise ConfigError(f"recipes takes no argument, not {args[0]!r}; it lists all recipes")
    from train.cli.tables import print_recipes

    print_recipes()
