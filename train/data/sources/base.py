"""What a source of examples is, and the sources that hold or make their images in memory."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from train.config import DataConfig
from train.paths import expand


class Example(NamedTuple):
    """One labelled image: encoded bytes, or decoded uint8 [H, W, C] with C of 1 or 3."""

    image: bytes | np.ndarray
    label: int


class Source(Protocol):
    """A split of a data set. `[i]` may be called from many threads at once."""

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def channels(self) -> int:
        """Of the images once they are read: encoded ones become RGB."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Raises `OSError` where it cannot be read; see `train/data/retry.py` for what follows."""
        ...

    def name(self, index: int) -> str:
        """The name of an example in messages: its file, or "test[17]"."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """Images in memory: uint8 [N, H, W, C] and labels [N]."""

    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    split: str

    @property
    def channels(self) -> int:
        return self.images.shape[-1]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], int(self.labels[index]))

    def name(self, index: int) -> str:
        return f"{self.split}[{index}]"


@dataclass(frozen=True)
class SyntheticSource:
    """Random pixels and labels, a function of the split and the index: for benchmarks."""

    examples: int
    size: int
    class_names: Sequence[str]
    split: str
    channels: int = 3

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng([index, *self.split.encode()])
        image = rng.integers(0, 256, (self.size, self.size, 3), np.uint8)
        return Example(image, int(rng.integers(len(self.class_names))))

    def name(self, index: int) -> str:
        return f"{self.split}[{index}]"


@dataclass(frozen=True)
class Splits:
    """What a run trains on and what it is evaluated on; iterates over the two."""

    train: Source
    eval: Source
    notes: Sequence[str] = ()
    """One line each, for the start of a run: files that were not taken, classes without images."""
    chosen: Mapping[str, str] = field(default_factory=dict)
    """Options of `DataConfig` that were None and were decided here, to be kept in config.json."""
    unused: Mapping[str, str] = field(default_factory=dict)
    """Options of `DataConfig` without effect on data laid out as these are -> the reason."""

    def __iter__(self) -> Iterator[Source]:
        yield self.train
        yield self.eval


def class_counts(source: Source) -> np.ndarray | None:
    """Examples of each class, int64 [K]; None where counting would have to read the examples."""
    labels = getattr(source, "labels", None)
    if labels is None:
        return None
    return np.bincount(np.asarray(labels, np.int64), minlength=len(source.class_names))


def data_path(config: DataConfig) -> Path:
    """`data.dir` with "~" expanded, and without ".." and the links before it.

    Raises:
      ConfigError: "~" stands for a home directory that nobody has.
    """
    path = expand(str(config.dir), "data.dir")
    return path.resolve() if ".." in path.parts else path


def nfc(names: Iterable[str]) -> list[str]:
    """Names in Unicode form NFC: macOS may write "é" as two characters, other systems as one."""
    return [unicodedata.normalize("NFC", name) for name in names]


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names for a message: the first ones, quoted, and the number of the others.

    >>> listed(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
