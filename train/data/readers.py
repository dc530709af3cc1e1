"""Readers: one example of the training or the evaluation stream, read, decoded and cropped.

A reader turns positions of its stream into (epoch, index) pairs, and each pair into the pixels,
label and bookkeeping of one row of a batch.
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
from train.data.order import example_indices_between
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

    def example_indices(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(epoch, index) at each position from `start` up to `stop`; see `order`."""
        count, order = len(self.source), self.data.order
        found = example_indices_between(
            count, self.seed, start, stop, order=order, balance=self.balance
        )
        return found.tolist()

    def __call__(self, example: tuple[int, int], out: np.ndarray) -> Row:
        """Writes the pixels of (epoch, index) to `out`.

        An unreadable example is replaced by the next readable one of the source.
        """
        epoch, first = example
        unreadable = -1
        for index in itertools.chain(range(first, len(self.source)), range(first)):
            transform = functools.partial(
                self.view, rng=generator(self.seed, epoch, index), out=out
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
        limits = crops.limits(self.data)
        if self.deferred is not None and isinstance(image, bytes):
            sampled = crops.sample_view(image, self.augment, rng, **limits)
            if sampled is not None:
                self.deferred.append(dali.View(image, *sampled, out))
                return out
        size = self.data.image_size
        return crops.train_image(image, size, self.augment, rng, **limits, out=out)


@dataclass(frozen=True)
class EvalReader(_Reader):
    """Reads centre-cropped examples of the evaluation split, padded to whole batches."""

    config: EvalConfig

    def example_indices(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(epoch, index) at each position from `start` up to `stop`; the epoch is always 0."""
        return [(0, position) for position in range(start, stop)]

    def __call__(self, example: tuple[int, int], out: np.ndarray) -> Row:
        """Writes the pixels of (epoch, index) to `out`; zeros for padding and unreadable images."""
        _, index = example
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
