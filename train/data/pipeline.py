"""Batches from a source: shuffle, shard, decode, batch, pad and mask. The only user of Grain.

Training reads one endless stream, epoch after epoch: its position `p` is example
`order(epoch)[p mod N]` of epoch `p // N`, and step `s` is positions `s * B .. (s + 1) * B`. So a
batch is a pure function of (config, step): a resume starts at any step, each process reads its own
rows of the same global batch, and every epoch sees every example once whatever the batch size.
"""

import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import grain
import numpy as np
from absl import flags

from train.config import AugmentConfig, ConfigError, DataConfig, EvalConfig, RunError
from train.data.images import crops, dali
from train.data.order import example_indices_between
from train.data.retry import read_again
from train.data.sources import Source
from train.data.thread_pool import in_threads
from train.data.workers import deaf, end_with_parent, without_segments

HostBatch = dict[str, np.ndarray]
"""image uint8 [B, H, W, C], label int32 [B], mask float32 [B] (0: padding or unreadable),
index int32 [B] (place in the source; -1: padding), bad int32 [B] (place of an unreadable example
that was asked for here; -1: none), retried int32 [B] (how often its reading was tried again)."""

Transform = Callable[[bytes | np.ndarray], np.ndarray]

_AT_A_TIME = 8  # rows
_COLUMNS = ("label", "index", "bad", "retried")
_ZEROS = np.zeros(4, np.uint64)
_own = threading.local()


Row = tuple[int, int, int, int]
"""(label, index, bad, retried): an example of a batch, but for its pixels and mask."""


class BadExample(ConfigError):
    """An image that cannot be read, by name."""


def augmentation_key(seed: int, epoch: Any, index: Any) -> tuple[Any, Any]:
    """Philox's key of an example's augmentation: a function of (seed, epoch, index) alone.

    `epoch` and `index` are integers, or uint64 arrays.
    """
    return seed << 32 | epoch, index


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The augmentation's randomness: a function of (seed, epoch, index) alone.

    It is that of a new `Philox(key=augmentation_key(...))`, and the calling thread's until it asks
    for the next one: a new one would first read the system's entropy, which takes 3 times as long.
    """
    if not hasattr(_own, "generator"):
        _own.generator = np.random.Generator(np.random.Philox(0))
    key = np.array(augmentation_key(seed, epoch, index), np.uint64)
    _own.generator.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": _ZEROS, "key": key},
        "buffer": _ZEROS,
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    return _own.generator


@dataclass(frozen=True)
class _Reader:
    """What both streams share: reading one example, and what to do when that fails."""

    source: Source
    data: DataConfig

    def read(self, index: int, transform: Transform) -> tuple[np.ndarray, int, int]:
        """(pixels, label, how often the read was tried again) of an example.

        Raises:
          BadExample: there is no image.
          RunError: there is no reading it, for a passing reason that did not pass.
        """
        source, name = self.source, self.source.name(index)
        fetch = functools.partial(source.__getitem__, index)
        try:
            (image, label), retried = read_again(fetch, self.data.retries, name)
            pixels = transform(image)
        except (crops.BadImage, OSError) as error:
            raise BadExample(
                f"{name}: {error}. `--data.on_bad_image skip` leaves such files out and counts them"
            ) from None
        if not 0 <= label < len(source.class_names):
            raise ConfigError(f"{name}: label {label} is not in 0..{len(source.class_names) - 1}")
        return pixels, label, retried


@dataclass(frozen=True)
class TrainReader(_Reader):
    """What a position of the training stream asks for -> example, augmented."""

    augment: AugmentConfig
    seed: int
    later: list[dali.View] | None = None
    """Where views are put that DALI shall decode; None: it is not used."""

    def asked(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(epoch, index) at each position from `start` up to `stop`."""
        count, order = len(self.source), self.data.order
        return example_indices_between(count, self.seed, start, stop, order=order).tolist()

    def __call__(self, asked: tuple[int, int], out: np.ndarray) -> Row:
        """Writes the pixels to `out`; in place of an unreadable example, the next readable one."""
        epoch, first = asked
        bad = -1
        for index in itertools.chain(range(first, len(self.source)), range(first)):
            transform = functools.partial(
                self.view, rng=generator(self.seed, epoch, index), out=out
            )
            try:
                _, label, retried = self.read(index, transform)
            except BadExample:
                if self.data.on_bad_image == "error":
                    raise
                bad = first
                continue
            return label, index, bad, retried
        raise BadExample("no example of the training split can be read")

    def view(
        self, image: bytes | np.ndarray, rng: np.random.Generator, out: np.ndarray
    ) -> np.ndarray:
        """Writes a training view to `out`, now or, if it is in `later`, later."""
        limits = crops.limits(self.data)
        if self.later is not None and isinstance(image, bytes):
            plan = crops.plan_view(image, self.augment, rng, **limits)
            if plan is not None:
                self.later.append(dali.View(image, *plan, out))
                return out
        size = self.data.image_size
        return crops.train_image(image, size, self.augment, rng, **limits, out=out)


@dataclass(frozen=True)
class EvalReader(_Reader):
    """Position in the padded split -> example, centre-cropped; what is not there is masked."""

    config: EvalConfig

    def asked(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(epoch, index) at each position from `start` up to `stop`; there is one epoch."""
        return [(0, position) for position in range(start, stop)]

    def __call__(self, asked: tuple[int, int], out: np.ndarray) -> Row:
        """Writes the pixels to `out`; an unreadable example is masked, and reported in `bad`."""
        _, index = asked
        out[...] = 0
        if index >= len(self.source):
            return 0, -1, -1, 0
        try:
            pixels, label, retried = self.read(index, self.transform)
        except BadExample:
            if self.data.on_bad_image == "error":
                raise
            return 0, -1, index, 0
        out[...] = pixels
        return label, index, -1, retried

    def transform(self, image: bytes | np.ndarray) -> np.ndarray:
        """What evaluation does to an image: uint8 [image_size, image_size, C]."""
        return crops.eval_image(
            image,
            self.data.image_size,
            self.config.crop_fraction,
            **crops.limits(self.data),
            interpolation=self.config.interpolation,
        )


@dataclass(frozen=True)
class _Rows:
    """Which rows of the global batches this process reads, and where they go."""

    reader: TrainReader | EvalReader
    batch_size: int
    first: int
    """Of the rows that are this process's."""
    count: int

    def new_batch(self) -> HostBatch:
        """A batch to fill."""
        size, channels = self.reader.data.image_size, self.reader.source.channels
        return {
            "image": np.empty((self.count, size, size, channels), np.uint8),
            "mask": np.empty(self.count, np.float32),
            **{name: np.empty(self.count, np.int32) for name in _COLUMNS},
        }

    def fill(self, batch: HostBatch, step: int, rows: range) -> None:
        """Reads the examples of some rows right into their places."""
        before = step * self.batch_size + self.first
        asked = self.reader.asked(before + rows.start, before + rows.stop)
        for row, what in zip(rows, asked, strict=True):
            found = self.reader(what, batch["image"][row])
            for name, value in zip(_COLUMNS, found, strict=True):
                batch[name][row] = value
            batch["mask"][row] = batch["index"][row] >= 0

    def read(self, step: int) -> HostBatch:
        """A whole batch, one row after the other."""
        batch = self.new_batch()
        self.fill(batch, int(step), range(self.count))
        return batch


def _batches(
    reader: TrainReader | EvalReader,
    data: DataConfig,
    *,
    start: int,
    stop: int,
    batch_size: int,
    shard: tuple[int, int],
) -> Iterator[HostBatch]:
    """This process's rows of global batches `start` up to `stop`."""
    process, processes = shard
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size}: must be at least 1")
    if batch_size % processes:
        raise ConfigError(f"a batch of {batch_size}: does not divide over {processes} processes")
    count = batch_size // processes
    rows = _Rows(reader, batch_size, process * count, count)
    way = _in_workers if data.workers else _together
    if isinstance(reader, TrainReader) and data.decoder == "dali":
        way = _by_dali
    return way(rows, range(start, stop), data)


def _together(rows: _Rows, steps: range, data: DataConfig) -> Iterator[HostBatch]:
    """Batches, each read by all threads."""
    # A few rows at a time: a wait for each single one would take the interpreter from the threads.
    some = min(_AT_A_TIME, -(-rows.count // max(data.threads, 1)))
    parts = [range(k, min(k + some, rows.count)) for k in range(0, rows.count, some)]

    def places() -> Iterator[tuple[HostBatch, int, range]]:
        for step in steps:
            batch = rows.new_batch()
            for part in parts:
                yield batch, step, part

    def read(place: tuple[HostBatch, int, range]) -> HostBatch | None:
        rows.fill(*place)
        return place[0] if place[2] == parts[-1] else None

    ahead = data.prefetch * len(parts)
    done = in_threads(read, places(), min(data.threads, ahead), ahead)
    with contextlib.closing(done):
        yield from filter(None, done)


def _by_dali(rows: _Rows, steps: range, data: DataConfig) -> Iterator[HostBatch]:
    """Batches, each read by one thread and decoded by its pipeline of DALI's."""
    threads = min(max(data.threads, 1), data.prefetch)

    def read(step: int) -> HostBatch:
        batch, views = rows.new_batch(), list[dali.View]()
        reader = dataclasses.replace(cast(TrainReader, rows.reader), later=views)
        dataclasses.replace(rows, reader=reader).fill(batch, step, range(rows.count))
        try:
            dali.decode(views, rows.count, -(-max(data.threads, 1) // threads))
        except dali.Failed:
            return rows.read(step)  # which says what is wrong with which image
        return batch

    with contextlib.closing(in_threads(read, steps, threads, data.prefetch)) as it:
        yield from it


def _in_workers(rows: _Rows, steps: range, data: DataConfig) -> Iterator[HostBatch]:
    """Batches, each read by one of several processes."""
    threads = min(data.threads, data.prefetch)
    options = grain.ReadOptions(threads, prefetch_buffer_size=data.prefetch if threads else 0)
    stream = grain.MapDataset.range(steps.start, steps.stop).map(rows.read)
    workers = grain.MultiprocessingOptions(data.workers, per_worker_buffer_size=data.prefetch)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain hands absl's flags to its workers; we have none
    batches = iter(stream.to_iter_dataset(options).mp_prefetch(workers, end_with_parent))
    with contextlib.closing(batches):
        try:
            with deaf():  # the first batch starts them
                first = list(itertools.islice(batches, 1))
            yield from map(without_segments, first)
            yield from map(without_segments, batches)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise RunError(
                "a process of data.workers died, for lack of memory, or because a script starts "
                f"training outside of `if __name__ == '__main__':`: {error}"
            ) from None


def check_decoder(data: DataConfig, augment: AugmentConfig) -> None:
    """Raises `ConfigError` where DALI is asked for and not there, or for what it does not do."""
    if data.decoder == "dali":
        if augment.crop != "random_resized":
            raise ConfigError(f"data.decoder dali: crops random_resized, not {augment.crop!r}")
        if data.workers:
            raise ConfigError(f"data.decoder dali: data.workers must be 0, not {data.workers}")
        dali.check()


def train_batches(
    source: Source,
    data: DataConfig,
    augment: AugmentConfig,
    *,
    seed: int,
    batch_size: int,
    start: int,
    stop: int,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[HostBatch]:
    """Training batches of steps `start` up to `stop`.

    Args:
      seed: of the order and the augmentation.
      batch_size: global; `shard` = (process, processes) takes its rows of it.

    Yields:
      `HostBatch` with batch_size / processes rows.

    Raises:
      BadExample: an unreadable image (`data.on_bad_image` "error").
      ConfigError: a label out of range; a batch that is empty, or that the processes do not
        divide; see `check_decoder`.
      RunError: the storage is down, or a process of `data.workers` died.
    """
    check_decoder(data, augment)
    reader = TrainReader(source, data, augment, seed)
    return _batches(reader, data, start=start, stop=stop, batch_size=batch_size, shard=shard)


def eval_batches(
    source: Source,
    data: DataConfig,
    config: EvalConfig,
    *,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[HostBatch]:
    """The whole split in order, every example once; the last batch is padded and masked."""
    reader = EvalReader(source, data, config)
    stop = -(-len(source) // batch_size)
    return _batches(reader, data, start=0, stop=stop, batch_size=batch_size, shard=shard)
