"""Warnings and errors about options that have no effect. Nothing here imports JAX."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from train.config import ConfigError, DataConfig, RunConfig
from train.config.conditions import CONDITIONS, spec_of
from train.config.serialize import flatten, to_json

EVALUATION = ("data.", "eval.", "precision", "compilation_cache")
"""Prefixes of the options of a run that `eval` accepts."""
_TRAINING_ONLY = (
    "data.test_split",
    "data.balance",
    "data.order",
    "data.resident",
    "data.decoder",
    "eval.every",
)

PREDICTION = (
    *("data.image_size", "data.mean", "data.std", "data.max_pixels", "data.max_image_bytes"),
    *("eval.crop_fraction", "eval.interpolation", "precision", "compilation_cache"),
)
"""Options of a run that have an effect on `predict`."""


def accepted_by_eval(name: str) -> bool:
    """Whether an option has an effect on `eval`."""
    return name.startswith(EVALUATION) and name not in _TRAINING_ONLY


def changes(config: RunConfig, base: RunConfig) -> dict[str, Any]:
    """Options that differ between two configs: name -> value in `config`."""
    now, before = flatten(to_json(config)), flatten(to_json(base))
    return {name: now.get(name) for name in {**before, **now} if now.get(name) != before.get(name)}


def without_effect(config: RunConfig, base: RunConfig) -> tuple[list[str], list[str]]:
    """Options that differ from `base`, a recipe or a run, and have no effect in `config`.

    Returns:
      Messages about mistakes, and warnings.
    """
    changed = changes(config, base)
    values = flatten(to_json(config))
    mistakes: list[str] = []
    warnings: list[str] = []
    for condition in CONDITIONS:
        names = [name for name in condition.options if name in changed]
        if not names or condition.holds(config):
            continue
        decides = condition.decides
        value = values.get(decides, getattr(spec_of(config), decides.rpartition(".")[2], None))
        for name in names:
            message = (
                f"--{name} {shown(changed[name])} has no effect with {decides} {shown(value)}: "
                f"it belongs to {condition.belongs}"
            )
            (mistakes if condition.is_mistake else warnings).append(message)
    return mistakes, warnings


def check_effects(config: RunConfig, base: RunConfig) -> list[str]:
    """The warnings of `without_effect`.

    Raises:
      ConfigError: the mistakes of `without_effect`.
    """
    mistakes, warnings = without_effect(config, base)
    if mistakes:
        raise ConfigError("\n  ".join(mistakes))
    return warnings


def check_applicable(
    command: str, trained: RunConfig, given: RunConfig, accepts: Callable[[str], bool]
) -> list[str]:
    """Warnings about options that have no effect on `command`.

    Args:
      trained: config of the run.
      given: the same with the options of the command line.
      accepts: whether an option has an effect on the command, by its name.

    Raises:
      ConfigError: an option of the training, or one that the data set does not use.
    """
    changed = changes(given, trained)
    old = flatten(to_json(trained))
    for name, value in changed.items():
        if not name.startswith(EVALUATION):
            raise ConfigError(
                f"{command} cannot change {name}: {shown(old.get(name))} -> {shown(value)}; "
                "it can change data.*, eval.*, precision"
            )
    unused = [name for name in changed if not accepts(name)]
    warnings = [f"--{name} has no effect on {command}" for name in unused]
    return warnings + [w for w in check_effects(given, trained) if not _is_about(w, unused)]


def unused_by_folder(
    unused: Mapping[str, str], data: DataConfig, base: Mapping[str, Any]
) -> list[str]:
    """Warnings about options that the layout of a folder does not use.

    Args:
      unused: option of `DataConfig` -> why; see `Splits.unused`.
      base: values of these options in the recipe or the run.
    """
    return [
        f"--data.{name} {shown(getattr(data, name))} has no effect: {why}"
        for name, why in unused.items()
        if getattr(data, name) != base.get(name)
    ]


def _is_about(message: str, names: Iterable[str]) -> bool:
    return any(message.startswith(f"--{name} ") for name in names)


def shown(value: Any) -> str:
    """A value as a user would type it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "''"
    return "''" if value == "" else str(value)
