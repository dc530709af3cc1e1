"""Recipes: complete configs by name. Each module has the recipes of one kind of data. Its docstring
gives the command, the hardware, the expected result, and whether that was measured.
"""

import difflib
import importlib
from types import ModuleType

from train.config import ConfigError, RunConfig

_MODULES = ("digits", "cifar", "imagenet", "folder")


def modules() -> list[ModuleType]:
    """The modules that hold `RECIPES`."""
    return [importlib.import_module(f"train.recipes.{name}") for name in _MODULES]


def all_recipes() -> dict[str, RunConfig]:
    """Every recipe by its name, in the order of `resnet-jax recipes`."""
    return {name: config for module in modules() for name, config in module.RECIPES.items()}


def get_recipe(name: str) -> RunConfig:
    """A recipe's config.

    Raises:
      ConfigError: there is no recipe of that name; the message lists similar ones.
    """
    recipes = all_recipes()
    if name not in recipes:
        near = difflib.get_close_matches(name, recipes, n=3, cutoff=0.6) or list(recipes)
        raise ConfigError(
            f"unknown recipe {name!r}: did you mean {', '.join(near)}? "
            "`resnet-jax recipes` lists all"
        )
    return recipes[name]
