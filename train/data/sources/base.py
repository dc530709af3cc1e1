"""The `Source` protocol, and the sources whose images are in memory or generated."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from train.config import DataConfig
from train.paths import expand


class Example(NamedTuple):
    """One labelled image: encoded bytes, or decoded pixels, uint8 [H, W, C] with C = 1 or 3."""

    image: bytes | np.ndarray
    label: int | np.ndarray
    """With `data.multi_label`, uint8 [K]: 1 for each label of the image."""


class Source(Protocol):
    """A split of a data set. Many threads may call `source[i]` at the same time."""

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def channels(self) -> int:
        """Channels of the decoded images: 1 or 3. Encoded images are decoded to 3."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Reads an example.

        Raises:
          OSError: it cannot be read; `train/data/retry.py` decides which errors are retried.
        """
        ...

    def name(self, index: int) -> str:
        """The name of an example in messages: its file, or "test[17]"."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """Images in memory: uint8 [N, H, W, C] and labels [N], or 0/1 of K classes, [N, K]."""

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
        label = self.labels[index]
        return Example(self.images[index], label if self.labels.ndim == 2 else int(label))

    def name(self, index: int) -> str:
        return f"{self.split}[{index}]"


@dataclass(frozen=True)
class SyntheticSource:
    """Random pixels and labels, for benchmarks: a function of the split and the index."""

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
    """The splits of a data set; iterates over the training and the evaluation split."""

    train: Source
    eval: Source
    notes: Sequence[str] = ()
    """Messages for the start of a run, one line each: skipped files, classes without images."""
    chosen: Mapping[str, str] = field(default_factory=dict)
    """Values chosen for options of `DataConfig` that were None; they are saved in config.json."""
    unused: Mapping[str, str] = field(default_factory=dict)
    """Options of `DataConfig` without effect on this data set -> the reason."""
    test: Source | None = None
    """The split `data.test_split`, on which only the best checkpoint is evaluated; None: no such
    split."""

    def __iter__(self) -> Iterator[Source]:
        yield self.train
        yield self.eval

    @property
    def counts(self) -> dict[str, int]:
        """The number of examples of each split."""
        test = {} if self.test is None else {"test": len(self.test)}
        return {"train": len(self.train), "eval": len(self.eval), **test}


def class_counts(source: Source) -> np.ndarray | None:
    """Number of examples of each class, int64 [K]; None if counting had to read the examples."""
    labels = getattr(source, "labels", None)
    if labels is None:
        return None
    return counts_of(np.asarray(labels), len(source.class_names))


def counts_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 [K]: the number of each label in labels [N], or in a matrix of 0/1, [N, K]."""
    if labels.ndim == 2:
        return labels.sum(0, dtype=np.int64)
    return np.bincount(labels.astype(np.int64), minlength=classes)


def is_label(label: int | np.ndarray, classes: int) -> bool:
    """Whether a label is in its range; rows of a matrix are checked when the data are opened."""
    return isinstance(label, np.ndarray) or 0 <= label < classes


def data_path(config: DataConfig) -> Path:
    """`data.dir` with "~" expanded; a path with ".." is resolved, including links.

    Raises:
      ConfigError: the home directory of "~" is unknown.
    """
    path = expand(str(config.dir), "data.dir")
    return path.resolve() if ".." in path.parts else path


def nfc(names: Iterable[str]) -> list[str]:
    """Names in Unicode form NFC: macOS may write "é" as two characters, other systems as one."""
    return [unicodedata.normalize("NFC", name) for name in names]


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names for a message: the first ones, quoted, and the number of remaining names.

    >>> listed(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
