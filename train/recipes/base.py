"""`Recipe`: a config, where it comes from, and how it differs from another recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from train.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete config with a name, and what is known about its result."""

    config: RunConfig
    """Its `recipe` is the name."""
    parent: "Recipe | None" = None
    """The recipe from which it is derived; None: it is written from the defaults."""
    source: str
    """Paper or repository. "recalled": a number is quoted from memory, and was not checked."""
    hardware: str
    expected: str
    """The published result: top-1 accuracy or error on the data set's test or validation images."""
    measured: str = "no"
    """The result of this program with this recipe; no: it was not measured."""
    notes: str = ""
    """Differences from the source."""

    @property
    def name(self) -> str:
        return self.config.recipe

    @property
    def command(self) -> str:
        """What trains it."""
        name = self.config.data.name
        where = {"digits": "", "folder": " --data.dir DIR"}.get(name, " --data.dir TFDS_DIR")
        return f"resnet-jax train {self.name}{where}"


def derive(
    parent: Recipe,
    name: str,
    *,
    expected: str,
    source: str = "",
    hardware: str = "",
    measured: str = "no",
    notes: str = "",
    **changes: Any,
) -> Recipe:
    """A recipe that is `parent` except for `changes`.

    Args:
      parent: the other recipe.
      name: of the new one.
      expected: the published result.
      source: the parent's if empty; `hardware` too.
      hardware: what it is meant for.
      measured: the result of this program.
      notes: differences from the source.
      **changes: options by name, such as `batch_size`; a dict changes options of a group.

    Raises:
      ConfigError: the config is invalid.
    """
    groups = {
        key: replace(getattr(parent.config, key), **value) if isinstance(value, Mapping) else value
        for key, value in changes.items()
    }
    return Recipe(
        config=replace(parent.config, recipe=name, **groups),
        parent=parent,
        source=source or parent.source,
        hardware=hardware or parent.hardware,
        expected=expected,
        measured=measured,
        notes=notes,
    )


def share(part: float, of: float) -> str:
    """A duration as a share of the run, which follows `--duration`: 5 of 90 epochs.

    >>> share(5, of=90), share(400, of=64_000)
    ('5.55556%', '0.625%')
    """
    return f"{100 * part / of:.6g}%"


def by_name(*recipes: Recipe) -> dict[str, Recipe]:
    """Recipes by their names, in this order."""
    return {recipe.name: recipe for recipe in recipes}
