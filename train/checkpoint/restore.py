"""A checkpoint's arrays on the devices: each process reads the ranges that its devices hold.

So a state that is sharded over several hosts passes through none of them as a whole. What was
placed is verified there, by the program that took the digests when it was saved.
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

_GOOD, _DAMAGED, _FOREIGN = range(3)

Shardings = Mapping[str, Sharding]
"""How arrays lie on the devices, by path."""


class Placed(NamedTuple):
    """Arrays of a checkpoint, on the devices and verified."""

    step: int
    record: Record
    arrays: dict[str, jax.Array]
    """By path."""


def restore(
    folder: Path, choose: Callable[[Iterable[str]], Shardings], state: Any = None
) -> tuple[Placed | None, str]:
    """Reads the checkpoint in `folder` and places its arrays.

    All processes must call it, and get the same answer.

    Args:
      choose: the paths that there are -> those that are read, and where they are placed.
      state: a tree that the checkpoint has to fit; None: any will do.

    Returns:
      What all processes could read; None and the reason, if one of them could not.

    Raises:
      OtherModel: the checkpoint does not fit.
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
        verdict, why = _FOREIGN, str(error)
    worst = _worst(verdict)
    if stored and worst == _GOOD:  # else some process would wait in `digests` for another one
        try:
            stored.check(digests(arrays))
        except CorruptCheckpoint as error:
            verdict, why = _DAMAGED, str(error)
        worst = _worst(verdict)
    if worst == _FOREIGN:
        raise OtherModel(why)
    if not stored or worst == _DAMAGED:
        return None, why
    return Placed(int(folder.name), stored.record, arrays), ""


def _worst(verdict: int) -> int:
    """The worst of all processes' verdicts."""
    return int(multihost_utils.process_allgather(np.int32(verdict)).max())


def _place(stored: Stored, shardings: Shardings) -> dict[str, jax.Array]:
    """Reads and places one array after the other; nothing here waits for another process."""
    shapes = {name: tuple(stored.arrays[name].shape) for name in shardings}
    ranges = {name: held_range(shardings[name], shapes[name]) for name in shardings}
    placed = {}
    for name, part in stored.read(ranges):
        placed[name] = _put(part, ranges[name], shapes[name], shardings[name])
        placed[name].block_until_ready()  # only then is `part` no longer needed
    return {name: placed[name] for name in shardings}


def held_range(sharding: Sharding, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The smallest range of indices with all that this process's devices hold of an array.

    It is read once, however many of the devices hold the same or a part of it.
    """
    held = sharding.addressable_devices_indices_map(shape).values()
    bounds = [[s.indices(n)[:2] for s, n in zip(i, shape, strict=True)] for i in held if i]
    axes = zip(*bounds, strict=True)
    return tuple(slice(min(a for a, _ in axis), max(b for _, b in axis)) for axis in axes)


def _put(
    part: np.ndarray, held: tuple[slice, ...], shape: tuple[int, ...], sharding: Sharding
) -> jax.Array:
    """The array of a `shape`, of which `part` is the range `held`, on the devices."""

    def shard(index: Any) -> np.ndarray:
        bounds = [s.indices(n)[:2] for s, n in zip(index, shape, strict=True)]
        starts = [h.start for h in held]
        return part[tuple(slice(a - s, b - s) for (a, b), s in zip(bounds, starts, strict=True))]

    return jax.make_array_from_callback(shape, sharding, shard)
