"""How training steps are sent to the devices: one by one, or many in one dispatch."""

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

from train.config import DataConfig
from train.data.batch import HostBatch
from train.data.on_device import Resident, crop_params, stacked, upload
from train.data.pipeline import train_batches
from train.data.prefetch import Feed
from train.data.sizes import growing_batches
from train.data.thread_pool import in_threads
from train.distributed.mesh import Batch, put_batch, shard, steps_sharding
from train.learn.gradients import Sums
from train.learn.state import TrainState
from train.learn.step import Step, TrainSteps, make_train_steps
from train.run.parts import Run

MAX_STEPS = 100
"""The most steps in one dispatch."""
SECONDS = 0.25
"""How long one dispatch should take. A signal waits for at most two dispatches."""


def dispatches(
    run: Run,
    start: int,
    *,
    report: Callable[[str], None],
    stopped: Callable[[float], bool],
    say: Callable[[str], None],
) -> "Dispatches":
    """The dispatches of a run from step `start` (from 0) to its end.

    Args:
      report, stopped: see `Feed`.
      say: receives a line if the training images are stored on the devices.

    Raises:
      BadExample, Stopped: see `upload`.
    """
    config, source = run.config, run.splits.train

    def single_steps(batches: Iterator[HostBatch], put: Callable[[HostBatch], Batch]) -> SingleStep:
        feed = Feed(batches, put, config.data, first=start + 1, report=report, stopped=stopped)
        return SingleStep(feed, run.train_step)

    if not run.resident:
        return single_steps(_host_batches(run, start), partial(put_batch, mesh=run.mesh))
    resident = upload(source, config.data, config.augment, run.mesh, report=report, stopped=stopped)
    say(f"the {len(source)} training images are on the devices")
    found = crop_params(
        len(source),
        config.augment,
        seed=config.seed,
        batch_size=config.batch_size,
        start=start,
        stop=run.total_steps,
        order=config.data.order,
        balance=run.balance,
        replacement=resident.replacement,
    )
    if loops_are_fast(run.mesh):
        return MultiStep(found, run.total_steps - start, resident, _train_steps(run, resident))
    return single_steps(found, resident.put)


def _host_batches(run: Run, start: int) -> Iterator[HostBatch]:
    """The batches that the host reads; their images may grow during the run."""
    return growing_batches(run.image_sizes, run.config.data, partial(sized_batches, run), start)


def sized_batches(run: Run, data: DataConfig, start: int, stop: int) -> Iterator[HostBatch]:
    """The training batches of steps `start` up to `stop`, with images of `data.image_size`."""
    return train_batches(
        run.splits.train,
        data,
        run.config.augment,
        seed=run.config.seed,
        batch_size=run.config.batch_size,
        start=start,
        stop=stop,
        shard=shard(run.mesh),
        balance=run.balance,
    )


def _train_steps(run: Run, resident: Resident) -> TrainSteps:
    sharding = run.state_sharding
    return make_train_steps(run.step, resident.gather_crops, run.mesh, sharding=sharding)


def loops_are_fast(mesh: Mesh) -> bool:
    """Whether a step in a loop is as fast as alone. On CPUs, XLA takes 2 to 5 times as long."""
    return bool(mesh.devices.flat[0].platform != "cpu")


@dataclass
class Work:
    """One dispatch."""

    steps: int
    host: HostBatch
    """The columns `unreadable` and `retried` of its batches."""
    arguments: tuple[Any, ...]
    """The arguments of the step after the state."""


class Dispatches(abc.ABC):
    """A stream of dispatches; a context manager that closes it."""

    @abc.abstractmethod
    def next(self, most: int) -> Work:
        """Waits for the input of the next dispatch, which has at most `most` steps."""

    @abc.abstractmethod
    def run(self, state: TrainState, work: Work) -> tuple[TrainState, Sums]:
        """Starts it. The state is donated; each sum is a scalar, or [K] with `work.steps` valid."""

    @abc.abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SingleStep(Dispatches):
    """One step in each dispatch, on the batches of a feed."""

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
    """Several steps in each dispatch, about `SECONDS`, on images stored on the devices."""

    def __init__(
        self,
        crop_params: Iterator[HostBatch],
        count: int,
        resident: Resident,
        steps: TrainSteps,
    ) -> None:
        """`count`: number of steps in `crop_params`."""
        self._resident, self._steps, self._chunk_sizer = resident, steps, ChunkSizer()
        # A thread prepares the next dispatch.
        self._crop_params = in_threads(lambda _: next(crop_params), range(count), 1, MAX_STEPS)

    def next(self, most: int) -> Work:
        count = min(most, self._chunk_sizer.steps)
        host = stacked(list(itertools.islice(self._crop_params, count)), MAX_STEPS)
        where = steps_sharding(self._resident.mesh)
        crops = jax.device_put(host.pop("crops"), where)
        arguments = self._resident.images, self._resident.labels, crops, np.int32(count)
        return Work(count, host, arguments)

    def run(self, state: TrainState, work: Work) -> tuple[TrainState, Sums]:
        state, sums = self._steps(state, *work.arguments)
        self._chunk_sizer.sent(work.steps, sums)
        return state, sums

    def close(self) -> None:
        self._crop_params.close()


class ChunkSizer:
    """Chooses the number of steps in the next dispatch from the time of the previous ones."""

    def __init__(self) -> None:
        self.steps = 1
        self._sent: list[tuple[int, float, Sums]] = []
        self._ready = 0.0

    def sent(self, steps: int, sums: Sums) -> None:
        """Called after each dispatch; waits for the previous one."""
        self._sent.append((steps, time.perf_counter(), sums))
        if len(self._sent) == 1:
            return
        before, since, result = self._sent.pop(0)
        jax.block_until_ready(result)
        now = time.perf_counter()
        seconds = (now - max(since, self._ready)) / before
        self._ready = now
        self.steps = min(max(int(SECONDS / seconds), 1), MAX_STEPS)
