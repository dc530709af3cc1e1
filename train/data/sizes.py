"""Progressive resizing: training images that grow during a run, by epoch."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from train.config import DataConfig, RunConfig, to_steps
from train.data.batch import HostBatch


def size_at(epoch: int, *, first: int, last: int, ramp: tuple[float, float], multiple: int) -> int:
    """The side of the training images in an epoch, counted from 0.

    It is `first` before the epoch ramp[0] and `last` from ramp[1] on. Between them it grows
    linearly, rounded to a multiple (libffcv/ffcv-imagenet, `get_resolution`).

    >>> [size_at(e, first=160, last=224, ramp=(2, 6), multiple=32) for e in range(8)]
    [160, 160, 160, 192, 192, 192, 224, 224]
    """
    begin, end = ramp
    if epoch <= begin or epoch >= end:
        return last if epoch >= end else first
    size = first + (last - first) * (epoch - begin) / (end - begin)
    return min(max(round(size / multiple) * multiple, first), last)


class Segment(NamedTuple):
    """Steps, counted from 0, whose images have the same size."""

    start: int
    stop: int
    size: int


def segments(config: RunConfig, examples: int, total_steps: int) -> list[Segment]:
    """The steps of a run by the size of their training images; one segment if it does not change.

    A batch has the size of the epoch in which it begins.
    """
    augment, last, batch = config.augment, config.data.image_size, config.batch_size
    if not augment.size_start:
        return [Segment(0, total_steps, last)]
    begin, end = (
        to_steps(duration, examples=examples, batch_size=batch, total=total_steps)
        * batch
        / examples
        for duration in augment.size_ramp
    )
    found: list[Segment] = []
    for epoch in range(-(-total_steps * batch // examples)):
        start, stop = (min(-(-e * examples // batch), total_steps) for e in (epoch, epoch + 1))
        size = size_at(
            epoch,
            first=augment.size_start,
            last=last,
            ramp=(begin, end),
            multiple=augment.size_step,
        )
        if found and found[-1].size == size:
            start = found.pop().start
        if stop > start:
            found.append(Segment(start, stop, size))
    return found


def growing_batches(
    parts: list[Segment],
    data: DataConfig,
    batches: Callable[[DataConfig, int, int], Iterator[HostBatch]],
    start: int,
) -> Iterator[HostBatch]:
    """The training batches of a run from step `start` on.

    Args:
      parts: from `segments`.
      data: `data.*` of the run.
      batches: (data, start, stop) -> the batches of these steps, for one size.
    """
    return itertools.chain.from_iterable(
        batches(replace(data, image_size=part.size), max(part.start, start), part.stop)
        for part in parts
        if part.stop > start
    )
