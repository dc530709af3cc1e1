"""Sums over the training images, for their mean, standard deviation and covariance.

Pixels are integers, so every sum is exact: it does not depend on the order of the images, nor on
the number of processes that share the work.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.config import ConfigError, DataConfig, EvalConfig
from train.data.pipeline import eval_batches
from train.data.prefetch import Feed, never
from train.data.sources import Example, Source

MOST = 50_000
"""Images that are read at most: all of CIFAR-10."""
MOST_LARGE = 10_000
"""The same for images with a side of more than `SMALL` pixels, which take longer to decode."""
SMALL = 64
_BATCH = 256


def sample(count: int, image_size: int) -> np.ndarray:
    """int64, ascending: the examples that are read of a split of `count`, evenly spaced.

    >>> sample(5, 32).tolist(), len(sample(1_281_167, 224))
    ([0, 1, 2, 3, 4], 10000)
    """
    number = min(count, MOST if image_size <= SMALL else MOST_LARGE)
    return np.arange(number) * count // number


@dataclass(frozen=True)
class Subset:
    """Some examples of a source."""

    source: Source
    indices: np.ndarray

    @property
    def class_names(self) -> Sequence[str]:
        return self.source.class_names

    @property
    def channels(self) -> int:
        return self.source.channels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


@dataclass(frozen=True)
class ImageSums:
    """Sums over images of uint8 pixels."""

    count: int
    """Number of images."""
    total: np.ndarray
    """int64 [H, W, C]."""
    squares: np.ndarray
    """int64 [H, W, C]: sums of squares."""
    products: np.ndarray | None = None
    """float64 [D, D], D = H * W * C: sums of the products of two pixels, integers too; or None."""

    def covariance(self) -> np.ndarray:
        """float64 [D, D], of pixels scaled to 0..1, with the divisor n - 1."""
        assert self.products is not None
        total = self.total.reshape(-1).astype(np.float64)
        centred = self.products - np.outer(total, total) / self.count
        return centred / ((self.count - 1) * 255.0**2)

    def mean_image(self) -> np.ndarray:
        """float64 [H, W, C], of pixels scaled to 0..1."""
        return self.total / (self.count * 255.0)

    def channel_sums(self) -> list[list[int]]:
        """Of each channel: number of pixels, their sum, the sum of their squares."""
        pixels = self.count * self.total.shape[0] * self.total.shape[1]
        sums = (int(x) for x in self.total.sum((0, 1)))
        squares = (int(x) for x in self.squares.sum((0, 1)))
        return [[pixels, *each] for each in zip(sums, squares, strict=True)]


def mean_and_std(sums: Sequence[int]) -> tuple[float, float]:
    """Mean and standard deviation, divisor n, of pixels scaled to 0..1.

    Args:
      sums: number of pixels, their sum, the sum of their squares.

    >>> mean_and_std([2, 255, 255 * 255])
    (0.5, 0.5)
    """
    count, total, squares = sums
    return total / (255 * count), (count * squares - total**2) ** 0.5 / (255 * count)


def sum_images(
    source: Source,
    data: DataConfig,
    view: EvalConfig,
    *,
    products: bool = False,
    report: Callable[[str], None],
    stopped: Callable[[float], bool] = never,
) -> ImageSums:
    """Sums the evaluation views of all examples of a source. Unreadable examples do not count.

    Args:
      products: also sum the products of pixels.
      report, stopped: see `Feed`.

    Raises:
      BadExample: an image is unreadable (`data.on_bad_image` "error").
      ConfigError: all are.
      Stopped: `stopped` returned True.
    """
    shape = (data.image_size, data.image_size, source.channels)
    values = data.image_size**2 * source.channels
    count, total, squares = 0, np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    outer = np.zeros((values, values)) if products else None
    batches = eval_batches(source, data, view, batch_size=min(_BATCH, len(source)))
    options: Any = {"report": report, "stopped": stopped, "what": "measuring, batch"}
    with Feed(batches, lambda _: None, data, **options) as feed:
        for batch, _ in feed:
            images = batch["image"][batch["mask"] > 0]
            count += len(images)
            total += images.sum(0, dtype=np.int64)
            squares += np.square(images, dtype=np.int64).sum(0)
            if outer is not None:
                flat = images.reshape(len(images), -1).astype(np.float64)
                outer += flat.T @ flat
    if not count:
        raise ConfigError("no example of the training split can be read")
    return ImageSums(count, total, squares, outer)
