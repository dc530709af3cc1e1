"""Batches from a source: shuffle, shard, decode, batch, pad and mask. The only user of Grain.

Training reads one endless stream, epoch after epoch: its position `p` is example
`order(epoch)[p mod N]` of epoch `p // N`, and step `s` is positions `s * B .. (s + 1) * B`. So a
batch is a pure function of (config, step): a resume starts at any step, each process reads its own
rows of the same global batch, and every epoch sees every example once whatever the batch size.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags

from train.config import AugmentConfig, ConfigError, DataConfig, EvalConfig
from train.data import images
from train.data.sources import Source

HostBatch = dict[str, np.ndarray]
"""image uint8 [B, H, W, C], label int32 [B], mask float32 [B] (0: padding or unreadable),
index int32 [B] (place in the source; -1: padding), bad int32 [B] (place of an unreadable example
that was asked for here; -1: none)."""


class BadExample(ConfigError):
    """An image that cannot be read, by name."""


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> grain.MapDataset:
    """The epoch's permutation of 0..count-1, computed index by index (nothing is stored)."""
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    return grain.MapDataset.range(count).shuffle(seed=mixed)


def _generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The augmentation's randomness: a function of (seed, epoch, index) alone."""
    key = np.array([seed << 32 | epoch, index], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


@dataclass(frozen=True)
class _Reader:
    """What both streams share: reading one example, and what to do when that fails."""

    source: Source
    data: DataConfig

    def _read(self, index: int, transform: Any) -> tuple[np.ndarray, int]:
        source = self.source
        try:
            image, label = source[index]
            pixels = transform(image)
        except (images.BadImage, OSError) as error:
            raise BadExample(
                f"{source.name(index)}: {error}. "
                "`--data.on_bad_image skip` leaves such files out and counts them"
            ) from None
        if not 0 <= label < len(source.class_names):
            raise ConfigError(
                f"{source.name(index)}: label {label} is not in 0..{len(source.class_names) - 1}"
            )
        return pixels, label


@dataclass(frozen=True)
class TrainReader(_Reader):
    """Position in the training stream -> example, augmented."""

    augment: AugmentConfig
    seed: int

    def __call__(self, position: int) -> HostBatch:
        """An unreadable example is replaced by the next readable one of the source."""
        epoch, place = divmod(int(position), len(self.source))
        asked = int(_order(len(self.source), self.seed, epoch)[place])
        bad = -1
        for index in itertools.chain(range(asked, len(self.source)), range(asked)):
            rng = _generator(self.seed, epoch, index)
            transform = functools.partial(
                images.train_image,
                size=self.data.image_size,
                augment=self.augment,
                rng=rng,
                max_pixels=self.data.max_pixels,
            )
            try:
                pixels, label = self._read(index, transform)
            except BadExample:
                if self.data.on_bad_image == "error":
                    raise
                bad = asked
                continue
            return _example(pixels, label, index, bad)
        raise BadExample("no example of the training split can be read")


@dataclass(frozen=True)
class EvalReader(_Reader):
    """Position in the padded split -> example, centre-cropped; what is not there is masked."""

    config: EvalConfig

    def __call__(self, position: int) -> HostBatch:
        """An unreadable example is masked like padding, and reported in `bad`."""
        index = int(position)
        size = self.data.image_size
        blank = np.zeros((size, size, self.source.channels), np.uint8)
        if index >= len(self.source):
            return _example(blank, 0, -1, -1)
        try:
            pixels, label = self._read(index, self.transform)
        except BadExample:
            if self.data.on_bad_image == "error":
                raise
            return _example(blank, 0, -1, index)
        return _example(pixels, label, index, -1)

    def transform(self, image: bytes | np.ndarray) -> np.ndarray:
        """What evaluation does to an image: uint8 [image_size, image_size, C]."""
        return images.eval_image(
            image,
            self.data.image_size,
            self.config.crop_fraction,
            max_pixels=self.data.max_pixels,
            interpolation=self.config.interpolation,
        )


def _example(pixels: np.ndarray, label: int, index: int, bad: int) -> HostBatch:
    return {
        "image": pixels,
        "label": np.asarray(label, np.int32),
        "mask": np.asarray(index >= 0, np.float32),
        "index": np.asarray(index, np.int32),
        "bad": np.asarray(bad, np.int32),
    }


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
    rows = batch_size // processes

    def position(k: int) -> int:
        batch, row = divmod(k, rows)
        return batch * batch_size + process * rows + row

    stream = grain.MapDataset.range(start * rows, stop * rows).map(position).map(reader)
    if not data.workers:
        yield from stream.to_iter_dataset(_ahead(data, data.prefetch * rows)).batch(rows)
        return
    # Grain's worker processes take whole elements in turn: batches, or they would mix examples.
    batches = stream.batch(rows).to_iter_dataset(_ahead(data, data.prefetch))
    workers = grain.MultiprocessingOptions(data.workers, per_worker_buffer_size=data.prefetch)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain hands absl's flags to its workers; we have none
    yield from batches.mp_prefetch(workers)


def _ahead(data: DataConfig, elements: int) -> grain.ReadOptions:
    threads = min(data.threads, elements)
    return grain.ReadOptions(threads, prefetch_buffer_size=elements if threads else 0)


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
      ConfigError: a label out of range.
    """
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
