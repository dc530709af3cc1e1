"""Readers: one example of the training or the evaluation stream, read, decoded and cropped.

A reader turns rows of a batch into (epoch, index, copy), and each of these into the pixels, label
and bookkeeping of one row.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from train.config import AugmentConfig, ConfigError, DataConfig, EvalConfig
from train.data.balance import Balance
from train.data.images import crops, dali
from train.data.images.decode import BadImage
from train.data.order import batch_positions, examples_at
from train.data.philox import generator
from train.data.retry import read_again
from train.data.sources import Source
from train.data.sources.base import is_label

Label = int | np.ndarray
Transform = Callable[[bytes | np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch, without its pixels and its mask."""

    label: Label
    index: int
    """Index of the example in the source; -1: padding, or an unreadable evaluation example."""
    unreadable: int
    """Index of the requested example if it is unreadable, else -1."""
    retried: int
    """Number of times that the read was tried again."""


class BadExample(ConfigError):
    """An example whose image cannot be read; the message names the file."""


@dataclass(frozen=True)
class _Reader:
    """Base of both readers: reads one example and handles failures."""

    source: Source
    data: DataConfig

    def read(self, index: int, transform: Transform) -> tuple[np.ndarray, Label, int]:
        """Reads an example: (transformed pixels, label, number of retries).

        Raises:
          BadExample: the image is missing or unreadable.
          ConfigError: the label is out of range.
          RunError: a temporary storage error remained after all retries.
        """
        source, name = self.source, self.source.name(index)
        fetch = functools.partial(source.__getitem__, index)
        try:
            (image, label), retried = read_again(fetch, self.data.retries, name)
            pixels = transform(image)
        except (BadImage, OSError) as error:
            raise BadExample(
                f"{name}: {error}. `--data.on_bad_image skip` skips and counts such files"
            ) from None
        if not is_label(label, len(source.class_names)):
            raise ConfigError(f"{name}: label {label} is not in 0..{len(source.class_names) - 1}")
        return pixels, label, retried


@dataclass(frozen=True)
class TrainReader(_Reader):
    """Reads augmented examples of the shuffled training stream."""

    augment: AugmentConfig
    seed: int
    deferred: list[dali.View] | None = None
    """If given, receives the views that DALI will decode later; None: DALI is not used."""
    balance: Balance | None = None
    """The order of `data.balance`; None: every example once an epoch."""

    def examples(self, batch_size: int, step: int, rows: range) -> list[tuple[int, ...]]:
        """(epoch, index, copy) of some rows of the global batch of a step; see `order`."""
        count, repeats = len(self.source), self.augment.repeats
        positions = batch_positions(batch_size, step, step + 1, repeats)[rows.start : rows.stop]
        found = examples_at(
            count,
            self.seed,
            positions,
            order=self.data.order,
            repeats=repeats,
            balance=self.balance,
        )
        return found.tolist()

    def __call__(self, example: tuple[int, ...], out: np.ndarray) -> Row:
        """Writes the pixels of (epoch, index, copy) to `out`.

        An unreadable example is replaced by the next readable one of the source.
        """
        epoch, first, copy = example
        unreadable = -1
        for index in itertools.chain(range(first, len(self.source)), range(first)):
            transform = functools.partial(
                self.view, rng=generator(self.seed, epoch, index, copy), out=out
            )
            try:
                _, label, retried = self.read(index, transform)
            except BadExample:
                if self.data.on_bad_image == "error":
                    raise
                unreadable = first
                continue
            return Row(label, index, unreadable, retried)
        raise BadExample("no example of the training split can be read")

    def view(
        self, image: bytes | np.ndarray, rng: np.random.Generator, out: np.ndarray
    ) -> np.ndarray:
        """Writes a training view to `out`, or adds it to `deferred` for DALI to decode."""
        limits, size = crops.limits(self.data), self.data.image_size
        if self.deferred is not None and isinstance(image, bytes):
            sampled = crops.sample_view(image, size, self.augment, rng, **limits)
            if sampled is not None:
                self.deferred.append(dali.View(image, *sampled, self.augment.fill, out))
                return out
        return crops.train_image(image, size, self.augment, rng, **limits, out=out)


@dataclass(frozen=True)
class EvalReader(_Reader):
    """Reads centre-cropped examples of the evaluation split, padded to whole batches."""

    config: EvalConfig

    def examples(self, batch_size: int, step: int, rows: range) -> list[tuple[int, ...]]:
        """(epoch, index, copy) of some rows of a batch; the epoch and the copy are always 0."""
        return [(0, step * batch_size + row, 0) for row in rows]

    def __call__(self, example: tuple[int, ...], out: np.ndarray) -> Row:
        """Writes the pixels of (epoch, index, copy) to `out`; zeros for padding and unreadable
        images.
        """
        index = example[1]
        out[...] = 0
        if index >= len(self.source):
            return Row(0, -1, -1, 0)
        try:
            pixels, label, retried = self.read(index, self.transform)
        except BadExample:
            if self.data.on_bad_image == "error":
                raise
            return Row(0, -1, index, 0)
        out[...] = pixels
        return Row(label, index, -1, retried)

    def transform(self, image: bytes | np.ndarray) -> np.ndarray:
        """The evaluation view of an image: uint8 [image_size, image_size, C]."""
        return crops.eval_image(
            image,
            self.data.image_size,
            self.config.crop_fraction,
            **crops.limits(self.data),
            interpolation=self.config.interpolation,
        )
