"""Batches of a source: shuffled, sharded over processes, and read ahead.

Training reads one endless stream, epoch after epoch. Position `p` of the stream is example
`order(epoch)[p mod N]` of epoch `p // N`, and step `s` takes positions `s * B` up to `(s + 1) * B`.
So a batch is a pure function of (config, step): training resumes at any step, each process reads
its own rows of the same global batch, and every epoch has every example once for any batch size.

Grain has two uses: the worker processes of `data.workers`, which share their batches through
memory, here; and the index shuffle of `data.order` 1, in `train/data/order.py`.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import cast

import grain
from absl import flags

from train.config import AugmentConfig, ConfigError, DataConfig, EvalConfig, RunError
from train.data.balance import Balance, make_balance
from train.data.batch import BatchRows, HostBatch
from train.data.images import dali
from train.data.readers import EvalReader, TrainReader
from train.data.sources import Source
from train.data.thread_pool import in_threads
from train.data.workers import block_signals, exit_with_parent, unlink_shared_memory

_ROWS_PER_JOB = 8


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
    rows = BatchRows(reader, batch_size, process * count, count)
    make_batches = worker_batches if data.workers else threaded_batches
    if isinstance(reader, TrainReader) and data.decoder == "dali":
        make_batches = dali_batches
    return make_batches(rows, range(start, stop), data)


def threaded_batches(rows: BatchRows, steps: range, data: DataConfig) -> Iterator[HostBatch]:
    """Batches of which each is read by all threads."""
    # A job has several rows: waiting for each single row would keep the interpreter's lock busy.
    size = min(_ROWS_PER_JOB, -(-rows.count // max(data.threads, 1)))
    parts = [range(k, min(k + size, rows.count)) for k in range(0, rows.count, size)]

    def jobs() -> Iterator[tuple[HostBatch, int, range]]:
        for step in steps:
            batch = rows.new_batch()
            for part in parts:
                yield batch, step, part

    def read(job: tuple[HostBatch, int, range]) -> HostBatch | None:
        rows.fill(*job)
        batch, _, part = job
        return batch if part == parts[-1] else None

    ahead = data.prefetch * len(parts)
    done = in_threads(read, jobs(), min(data.threads, ahead), ahead)
    with contextlib.closing(done):
        yield from filter(None, done)


def dali_batches(rows: BatchRows, steps: range, data: DataConfig) -> Iterator[HostBatch]:
    """Batches of which each is read by one thread and decoded by its DALI pipeline."""
    threads = min(max(data.threads, 1), data.prefetch)

    def read(step: int) -> HostBatch:
        batch, views = rows.new_batch(), list[dali.View]()
        reader = dataclasses.replace(cast(TrainReader, rows.reader), deferred=views)
        dataclasses.replace(rows, reader=reader).fill(batch, step, range(rows.count))
        try:
            dali.decode(views, rows.count, -(-max(data.threads, 1) // threads))
        except dali.Failed:
            return rows.read(step)  # finds out which image is unreadable, and why
        return batch

    with contextlib.closing(in_threads(read, steps, threads, data.prefetch)) as batches:
        yield from batches


def worker_batches(rows: BatchRows, steps: range, data: DataConfig) -> Iterator[HostBatch]:
    """Batches of which each is read by one of `data.workers` processes."""
    threads = min(data.threads, data.prefetch)
    options = grain.ReadOptions(threads, prefetch_buffer_size=data.prefetch if threads else 0)
    stream = grain.MapDataset.range(steps.start, steps.stop).map(rows.read)
    workers = grain.MultiprocessingOptions(data.workers, per_worker_buffer_size=data.prefetch)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain passes absl's flags to its workers; we have none
    batches = iter(stream.to_iter_dataset(options).mp_prefetch(workers, exit_with_parent))
    with contextlib.closing(batches):
        try:
            with block_signals():  # the first batch starts the workers
                first = list(itertools.islice(batches, 1))
            yield from map(unlink_shared_memory, first)
            yield from map(unlink_shared_memory, batches)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise RunError(
                "a process of data.workers died. Either memory ran out, or a script starts "
                f"training outside of `if __name__ == '__main__':`: {error}"
            ) from None


def check_decoder(data: DataConfig, augment: AugmentConfig) -> None:
    """Raises `ConfigError` if DALI is requested and is not installed or lacks the feature."""
    if data.decoder == "dali":
        if augment.crop != "random_resized" and not any(augment.scale):
            raise ConfigError(f"data.decoder dali: crops random_resized, not {augment.crop!r}")
        if augment.interpolation != "bilinear":
            raise ConfigError(
                f"data.decoder dali: augment.interpolation must be bilinear, not "
                f"{augment.interpolation}"
            )
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
    balance: Balance | None = None,
) -> Iterator[HostBatch]:
    """Training batches of steps `start` up to `stop`.

    Args:
      seed: of the order and the augmentation.
      batch_size: global.
      start, stop: steps, counted from 0.
      shard: (process, processes); this process reads its share of the rows of each batch.
      balance: of `data.balance`, to read the labels only once; None: it is made here.

    Yields:
      `HostBatch` with batch_size / processes rows.

    Raises:
      BadExample: an unreadable image (`data.on_bad_image` "error").
      ConfigError: a label is out of range; the batch size is below 1 or does not divide over the
        processes; see `check_decoder`.
      RunError: the storage is down, or a process of `data.workers` died.
    """
    check_decoder(data, augment)
    balance = make_balance(source, data) if balance is None else balance
    reader = TrainReader(source, data, augment, seed, balance=balance)
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
