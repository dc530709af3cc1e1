"""Recipes: complete configs by name. Each module is a family. Each recipe says what differs from
its parent, where it comes from, what result is expected, and whether that was measured.
"""

import difflib
import functools
import importlib
from types import ModuleType

from train.config import ConfigError, RunConfig
from train.recipes.base import Recipe

_MODULES = (
    *("digits", "cifar", "cifar_variants", "cifar_fast"),
    *("imagenet", "bag_of_tricks", "rsb", "large_batch", "fast_imagenet", "folder"),
)


def modules() -> list[ModuleType]:
    """The modules that hold `RECIPES`."""
    return [importlib.import_module(f"train.recipes.{name}") for name in _MODULES]


@functools.cache
def _recipes() -> dict[str, Recipe]:
    return {name: recipe for module in modules() for name, recipe in module.RECIPES.items()}


def all_recipes() -> dict[str, RunConfig]:
    """The config of every recipe by its name, in the order of `resnet-jax recipes`."""
    return {name: recipe.config for name, recipe in _recipes().items()}


def get_recipe(name: str) -> RunConfig:
    """A recipe's config.

    Raises:
      ConfigError: there is no recipe of that name; the message lists similar ones.
    """
    return describe(name).config


def describe(name: str) -> Recipe:
    """A recipe: its config, parent, source and results.

    Raises:
      ConfigError: there is no recipe of that name; the message lists similar ones.
    """
    recipes = _recipes()
    if name not in recipes:
        near = difflib.get_close_matches(name, recipes, n=3, cutoff=0.6)
        question = f"did you mean {', '.join(near)}? " if near else ""
        raise ConfigError(f"unknown recipe {name!r}: {question}`resnet-jax recipes` lists all")
    return recipes[name]
