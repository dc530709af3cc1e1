"""How the trainer brings its steps to the devices: one by one, or many at a time."""

import abc
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Mesh

from train.data.on_device import Resident, crop_params, stacked, upload
from train.data.pipeline import HostBatch, train_batches
from train.data.prefetch import Feed
from train.data.thread_pool import in_threads
from train.distributed.mesh import Batch, put_batch, shard, steps_sharding
from train.learn.state import TrainState
from train.learn.step import Step, Sums, TrainSteps, make_step, make_train_steps
from train.run.parts import Run

MOST = 100
"""Steps of a dispatch."""
SECONDS = 0.25
"""What a dispatch should take. Two are on their way at most, so that a signal waits for so many."""


def dispatches(
    run: Run,
    start: int,
    *,
    report: Callable[[str], None],
    stopped: Callable[[float], bool],
    say: Callable[[str], None],
) -> "Dispatches":
    """Those of a run's steps from `start` (from 0) to its end.

    Args:
      report, stopped: see `Feed`.
      say: is told where the images are, if it is on the devices.

    Raises:
      BadExample, Stopped: see `upload`.
    """
    config, source = run.config, run.splits.train
    order: Any = {"seed": config.seed, "batch_size": config.batch_size}
    order |= {"start": start, "stop": run.total_steps}
    options: Any = {"report": report, "stopped": stopped}

    def single_steps(batches: Iterator[HostBatch], put: Callable[[HostBatch], Batch]) -> SingleStep:
        feed = Feed(batches, put, config.data, first=start + 1, **options)
        return SingleStep(feed, run.train_step)

    if not run.resident:
        where = shard(run.mesh)
        batches = train_batches(source, config.data, config.augment, shard=where, **order)
        return single_steps(batches, partial(put_batch, mesh=run.mesh))
    resident = upload(source, config.data, config.augment, run.mesh, **options)
    say(f"the {len(source)} training images are on the devices")
    order |= {"order": config.data.order, "replacement": resident.replacement}
    found = crop_params(len(source), config.augment, **order)
    if loops_are_fast(run.mesh):
        return MultiStep(found, run.total_steps - start, resident, _train_steps(run, resident))
    return single_steps(found, resident.put)


def _train_steps(run: Run, resident: Resident) -> TrainSteps:
    parts, options = run.step_parts
    step = make_step(*parts, **options)
    return make_train_steps(step, resident.gather_crops, run.mesh, sharding=run.state_sharding)


def loops_are_fast(mesh: Mesh) -> bool:
    """Whether a step takes the same time inside a loop: on CPUs, XLA takes 2 to 5 times as long."""
    return bool(mesh.devices.flat[0].platform != "cpu")


@dataclass
class Work:
    """What one dispatch does."""

    steps: int
    host: HostBatch
    """`bad` and `retried` of its batches."""
    arguments: tuple[Any, ...]
    """Of the step, behind the state."""


class Dispatches(abc.ABC):
    """What is sent to the devices; a `with` ends it."""

    @abc.abstractmethod
    def next(self, most: int) -> Work:
        """Waits for what the next dispatch takes, of at most so many steps."""

    @abc.abstractmethod
    def run(self, state: TrainState, work: Work) -> tuple[TrainState, Sums]:
        """Sends it off. The state is donated; the sums are a step's, or [K] of `work.steps`."""

    @abc.abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SingleStep(Dispatches):
    """The batches of a feed, a step each."""

    def __init__(self, feed: Feed[Batch], step: Step) -> None:
        self._feed, self._step = feed, step

    def next(self, most: int) -> Work:
        batch, on_device = next(self._feed)
        return Work(1, batch, (on_device,))

    def run(self, state: TrainState, work: Work) -> tuple[TrainState, Sums]:
        return self._step(state, *work.arguments)

    def close(self) -> None:
        self._feed.close()


class MultiStep(Dispatches):
    """Steps on a resident set, as many in one dispatch as take a quarter of a second."""

    def __init__(
        self,
        crop_params: Iterator[HostBatch],
        count: int,
        resident: Resident,
        steps: TrainSteps,
    ) -> None:
        """`count`: number of steps in `crop_params`."""
        self._resident, self._steps, self._chunk_sizer = resident, steps, ChunkSizer()
        # In a thread, a dispatch ahead.
        self._crop_params = in_threads(lambda _: next(crop_params), range(count), 1, MOST)

    def next(self, most: int) -> Work:
        count = min(most, self._chunk_sizer.steps)
        host = stacked(list(itertools.islice(self._crop_params, count)), MOST)
        where = steps_sharding(self._resident.mesh)
        plan = jax.device_put(host.pop("plan"), where)
        arguments = self._resident.images, self._resident.labels, plan, np.int32(count)
        return Work(count, host, arguments)

    def run(self, state: TrainState, work: Work) -> tuple[TrainState, Sums]:
        state, sums = self._steps(state, *work.arguments)
        self._chunk_sizer.sent(work.steps, sums)
        return state, sums

    def close(self) -> None:
        self._crop_params.close()


class ChunkSizer:
    """How many steps the next dispatch has, by how long those before it took."""

    def __init__(self) -> None:
        self.steps = 1
        self._sent: list[tuple[int, float, Sums]] = []
        self._ready = 0.0

    def sent(self, steps: int, sums: Sums) -> None:
        """After each dispatch: waits for the one before it."""
        self._sent.append((steps, time.perf_counter(), sums))
        if len(self._sent) == 1:
            return
        before, since, result = self._sent.pop(0)
        jax.block_until_ready(result)
        now = time.perf_counter()
        seconds = (now - max(since, self._ready)) / before
        self._ready = now
        self.steps = min(max(int(SECONDS / seconds), 1), MOST)
