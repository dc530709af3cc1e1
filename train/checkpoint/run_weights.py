"""The weights of a run's checkpoint, chosen by best, last or step, for evaluation and export."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import flax.traverse_util
import jax

from train.checkpoint.directory import Folder
from train.checkpoint.lock import who_trains
from train.checkpoint.reader import CorruptCheckpoint, verify
from train.checkpoint.restore import restore
from train.config import ConfigError
from train.learn.state import TrainState, Variables


class Weights(NamedTuple):
    """The weights that a run is evaluated with."""

    step: int
    name: str
    """"ema" if the run averages its weights, else "raw"."""
    variables: Variables


def eval_weights(state: TrainState) -> tuple[str, Variables]:
    """The name and the variables of the weights that a run is evaluated with: see `Weights`."""
    return ("ema", state.ema) if state.ema else ("raw", state.variables)


def restore_weights(folder: Folder, which: str, sharding: jax.sharding.Sharding) -> Weights:
    """Restores the weights that a run is evaluated with; the other arrays are not read.

    Args:
      which: "best" (by `checkpoint.best`), "last" or a step.
      sharding: of every array.

    Raises:
      ConfigError: no such checkpoint, or it is damaged; the message lists the undamaged ones.
    """
    step = _choose(folder, which)
    found, why = restore(
        folder.step(step), lambda names: dict.fromkeys(_weight_names(names), sharding)
    )
    if found is None:
        raise _damaged(folder, step, why)
    paths = {tuple(name.split("/")): array for name, array in found.arrays.items()}
    tree = flax.traverse_util.unflatten_dict(paths)
    parts = {field.name: tree.get(field.name, {}) for field in dataclasses.fields(TrainState)}
    name, variables = eval_weights(TrainState(**parts))
    variables = {"batch_stats": {}, **variables}  # collections without arrays are not saved
    return Weights(step, name, variables)


def _choose(folder: Folder, which: str) -> int:
    """The step of "best", "last" or a step. Raises ConfigError."""
    steps = folder.steps()
    if not steps:
        raise _no_checkpoint(folder.shown)
    if which == "last":
        return steps[-1]
    if which == "best":
        records = folder.records()
        for step, record in records.items():
            if isinstance(record, CorruptCheckpoint):  # it may be the best one
                raise _damaged(folder, step, str(record))
        best = folder.best(records)
        return steps[-1] if best is None else best
    if not which.isdecimal() or int(which) not in steps:
        choices = ", ".join(map(str, steps))
        raise ConfigError(f"checkpoint {which!r}: choose best, last or one of {choices}")
    return int(which)


def _no_checkpoint(path: Path) -> ConfigError:
    if (who := who_trains(path.parent)) is not None:
        return ConfigError(
            f"{path}: no checkpoint in it yet. The run is in training{who}; its first "
            "checkpoint comes with its first evaluation"
        )
    damaged = ", ".join(sorted(file.name for file in path.glob("*.corrupt*")))
    only = f" but damaged ones, which were quarantined ({damaged})" if damaged else ""
    return ConfigError(f"{path}: no checkpoint in it{only}. Train again")


def _damaged(folder: Folder, step: int, why: str) -> ConfigError:
    good = [other for other in folder.steps() if other != step and _has_weights(folder, other)]
    choice = "no other one is whole. Put a copy of one back, or move them away and train again"
    if good:
        choice = f"choose another: --checkpoint {' or '.join(map(str, good))}"
    return ConfigError(f"checkpoint {step} in {folder.shown} is damaged ({why}); {choice}")


def _has_weights(folder: Folder, step: int) -> bool:
    """Whether the weights of a checkpoint are undamaged."""
    try:
        verify(folder.step(step), _weight_names)
    except CorruptCheckpoint:
        return False
    return True


def _weight_names(names: Iterable[str]) -> list[str]:
    """Those paths of a checkpoint's arrays that are weights to evaluate with."""
    names = list(names)
    averaged = [name for name in names if name.startswith("ema/")]
    return averaged or [name for name in names if name.startswith(("params/", "batch_stats/"))]
