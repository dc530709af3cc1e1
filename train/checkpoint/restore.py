"""Restores the arrays of a checkpoint to the devices.

Each process reads only the ranges that its devices hold, so a state that is sharded over several
hosts never passes through one host as a whole. The arrays are verified on the devices, by the same
program that computed their digests when they were saved.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from train.checkpoint.digests import digests
from train.checkpoint.reader import CorruptCheckpoint, OtherModel, Record, Stored, open_checkpoint

_GOOD, _DAMAGED, _OTHER_MODEL = range(3)

Shardings = Mapping[str, Sharding]
"""Shardings of arrays, by path."""


class Placed(NamedTuple):
    """Verified arrays of a checkpoint, on the devices."""

    step: int
    record: Record
    arrays: dict[str, jax.Array]
    """By path."""


def restore(
    folder: Path, choose: Callable[[Iterable[str]], Shardings], state: Any = None
) -> tuple[Placed | None, str]:
    """Restores arrays of the checkpoint in `folder`, whose name is its step.

    All processes must call it, and all get the same answer.

    Args:
      choose: all paths -> the shardings of those to restore.
      state: a tree whose paths, shapes and dtypes the checkpoint must have; None: no check.

    Returns:
      (the arrays, ""), or (None, the reason) if a process could not read its part.

    Raises:
      OtherModel: the checkpoint does not match `state`.
    """
    arrays: dict[str, jax.Array] = {}
    stored, verdict, why = None, _DAMAGED, "another process could not read it"
    try:
        stored = open_checkpoint(folder, state)
        arrays = _place(stored, choose(stored.arrays))
        verdict = _GOOD
    except CorruptCheckpoint as error:
        why = str(error)
    except OtherModel as error:
        verdict, why = _OTHER_MODEL, str(error)
    worst = _worst(verdict)
    if stored and worst == _GOOD:  # otherwise a process would wait in `digests` for another one
        try:
            stored.check(digests(arrays))
        except CorruptCheckpoint as error:
            verdict, why = _DAMAGED, str(error)
        worst = _worst(verdict)
    if worst == _OTHER_MODEL:
        raise OtherModel(why)
    if not stored or worst == _DAMAGED:
        return None, why
    return Placed(int(folder.name), stored.record, arrays), ""


def _worst(verdict: int) -> int:
    """The maximum of the verdicts of all processes."""
    return int(multihost_utils.process_allgather(np.int32(verdict)).max())


def _place(stored: Stored, shardings: Shardings) -> dict[str, jax.Array]:
    """Reads arrays and copies them to the devices, one by one, without other processes."""
    shapes = {name: tuple(stored.arrays[name].shape) for name in shardings}
    ranges = {name: held_range(shardings[name], shapes[name]) for name in shardings}
    placed = {}
    for name, part in stored.read(ranges):
        placed[name] = _put(part, ranges[name], shapes[name], shardings[name])
        placed[name].block_until_ready()  # `part` is needed until then
    return {name: placed[name] for name in shardings}


def held_range(sharding: Sharding, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The smallest index range that covers the parts of an array on this process's devices.

    It is read once, even if several devices hold the same part.
    """
    held = sharding.addressable_devices_indices_map(shape).values()
    bounds = [[s.indices(n)[:2] for s, n in zip(i, shape, strict=True)] for i in held if i]
    axes = zip(*bounds, strict=True)
    return tuple(slice(min(a for a, _ in axis), max(b for _, b in axis)) for axis in axes)


def _put(
    part: np.ndarray, held: tuple[slice, ...], shape: tuple[int, ...], sharding: Sharding
) -> jax.Array:
    """An array of a `shape` on the devices; `part` is its range `held`."""

    def shard(index: Any) -> np.ndarray:
        bounds = [s.indices(n)[:2] for s, n in zip(index, shape, strict=True)]
        starts = [h.start for h in held]
        return part[tuple(slice(a - s, b - s) for (a, b), s in zip(bounds, starts, strict=True))]

    return jax.make_array_from_callback(shape, sharding, shard)
