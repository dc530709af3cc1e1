"""An .npz file of arrays, in Keras's layout: x_train, y_train, x_test, y_test, class_names."""

import lzma
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.config import ConfigError, DataConfig
from train.data.retry import is_temporary
from train.data.sources.base import ArraySource, Splits, class_counts, data_path, listed
from train.runtime import available_memory

_UNREADABLE = (
    *(ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    RuntimeError,  # encrypted, or compressed by a method that zipfile does not support
)
_MAX_PLAIN_CLASSES = 1000  # labels below this are class numbers; above, they may be ids


def open_npz(config: DataConfig) -> Splits:
    """Opens the .npz file at `config.dir`.

    Labels are 0 .. K-1, and `class_names` has K names. Other labels, such as ids, are renumbered to
    0 .. K-1 in ascending order if `config.remap_labels` is True, or if `class_names` has as many
    names as there are different labels. Without `class_names`, the labels are the class names.

    With `config.test_split`, the arrays of that split are read too, and those of evaluation are the
    ones that `config.eval_split` names, such as x_val.

    With `config.multi_label`, labels are matrices of 0 and 1, with a column for each class.

    Raises:
      ConfigError: the file does not exist; arrays are missing, have the wrong shape or type, or do
        not fit into memory; labels are out of range.
      OSError: the file cannot be read temporarily.
    """
    path = data_path(config)
    if path.is_dir():
        raise ConfigError(
            f"data.dir {str(path)!r}: is a folder; npz needs an .npz file (for a folder of photos: "
            "--data.name folder)"
        )
    if not path.is_file():
        raise ConfigError(f"data.dir {str(path)!r}: no such file; npz needs an .npz file")
    evaluation = config.eval_split if config.test_split else "test"
    splits = tuple(dict.fromkeys(("train", evaluation, config.test_split or evaluation)))
    try:
        arrays = _load(path, splits)
    except _UNREADABLE as error:
        if isinstance(error, ConfigError) or is_temporary(error):
            raise
        raise ConfigError(f"data.dir {str(path)!r}: not a readable .npz file ({error})") from None
    images = {split: _images(path, f"x_{split}", arrays) for split in splits}
    read = _matrix if config.multi_label else _labels
    labels = {split: read(path, f"y_{split}", arrays, len(images[split])) for split in images}
    if not len(labels["train"]):
        raise ConfigError(f"{path}: split 'train' has no examples")
    given = arrays.get("class_names")
    if config.multi_label:
        names, notes = _columns(path, labels, given), list[str]()
    else:
        names, labels, notes = _classes(path, labels, given, config.remap_labels)
    sources = {s: ArraySource(images[s], labels[s], names, s) for s in splits}
    train, test = sources["train"], sources[config.test_split] if config.test_split else None
    notes += _empty_classes(path, train)
    return Splits(train, sources[evaluation], notes=notes, test=test)


def _load(path: Path, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads the arrays that are used, after a check of their headers."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        needed = [f"{array}_{split}" for split in splits for array in "xy"]
        missing = [key for key in needed if key not in stored]
        if missing:
            holds = ", ".join(stored.files) or "nothing"
            raise ConfigError(f"{path}: no array {', '.join(missing)}; it holds {holds}")
        keys = [key for key in (*needed, "class_names") if key in stored]
        _check_sizes(path, stored.zip, keys)
        return {key: stored[key] for key in keys}


def _check_sizes(path: Path, archive: Any, keys: list[str]) -> None:
    """Raises ConfigError if the arrays do not fit into memory, before any of them is read."""
    total = 0
    for key in keys:
        name = key if key in archive.namelist() else f"{key}.npy"
        with archive.open(name) as member:
            shape, _, dtype = _header(member)
            needed = math.prod(shape) * dtype.itemsize
            stored = archive.getinfo(name).file_size - member.tell()
        if needed > stored and not dtype.hasobject:  # np.load refuses arrays of objects later
            raise ConfigError(
                f"{path}: {key} should be {dtype} {list(shape)}, {_size(needed)}, but the file "
                f"holds {_size(stored)} of it; it is damaged"
            )
        total += needed
    available = available_memory()
    if available is not None and total > available:
        raise ConfigError(
            f"{path}: its arrays need {_size(total)} of memory, and {_size(available)} are "
            "available. Save the images as files, DIR/train/CLASS/*.png and DIR/val/CLASS/*.png, "
            "which are read when they are needed: --data.name folder --data.dir DIR"
        )


def _header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


def _size(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,} bytes"


def _images(path: Path, key: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    images = arrays[key]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        found = arrays[key]
        raise ConfigError(
            f"{path}: {key} is {found.dtype} {found.shape}; needs uint8 [N, H, W] or "
            "[N, H, W, 1 or 3]"
        )
    return images


def _labels(path: Path, key: str, arrays: dict[str, np.ndarray], count: int) -> np.ndarray:
    """The labels of a split, integers [count]; the array may have a second axis of length 1."""
    labels = arrays[key]
    what = f"{path}: {key} is {labels.dtype} {labels.shape}; needs {count} integers"
    if labels.ndim == 2 and labels.shape[1] > 1 and len(labels) == count:
        raise ConfigError(
            f"{what}. If it is one-hot, save {key}.argmax(axis=1) instead; if an image may have "
            "several labels: --data.multi_label True"
        )
    if labels.size != count or labels.ndim > 2:
        raise ConfigError(f"{what}, one label for each image of x_{key[2:]}")
    if labels.dtype.kind not in "iu":  # np.integer would include timedelta64
        fix = f". Save {key}.astype(int) instead" if labels.dtype.kind in "fb" else ""
        raise ConfigError(f"{what}{fix}")
    return labels.ravel()


def _matrix(path: Path, key: str, arrays: dict[str, np.ndarray], count: int) -> np.ndarray:
    """The labels of a split, uint8 [count, K] of 0 and 1."""
    labels = arrays[key]
    what = f"{path}: {key} is {labels.dtype} {labels.shape}; data.multi_label needs 0 and 1, "
    if labels.ndim != 2 or len(labels) != count or labels.dtype.kind not in "biuf":
        raise ConfigError(f"{what}[{count}, K]: a row for each image, a column for each class")
    wrong = np.argwhere((labels != 0) & (labels != 1))
    if len(wrong):
        row, column = wrong[0]
        raise ConfigError(f"{what}and {key}[{row}, {column}] is {labels[row, column]}")
    return labels.astype(np.uint8)


def _columns(path: Path, labels: dict[str, np.ndarray], given: np.ndarray | None) -> list[str]:
    """The names of the classes, which are the columns."""
    counts = {split: matrix.shape[1] for split, matrix in labels.items()}
    for split, count in counts.items():
        if count != counts["train"]:
            raise ConfigError(
                f"{path}: y_train has {counts['train']} columns, and y_{split} {count}"
            )
    names = [str(i) for i in range(counts["train"])] if given is None else _names(path, given)
    if len(names) != counts["train"]:
        raise ConfigError(
            f"{path}: class_names has {len(names)} names, and y_train {counts['train']} columns"
        )
    return names


def _classes(
    path: Path, labels: dict[str, np.ndarray], given: np.ndarray | None, remap: bool
) -> tuple[list[str], dict[str, np.ndarray], list[str]]:
    """(class names, labels of each split in 0 .. K-1, notes)."""
    values = [int(v) for v in np.unique(labels["train"])]  # not NumPy: uint64 may exceed int64
    if len(values) < 2:
        raise ConfigError(
            f"{path}: all of y_train is {values[0]}. A network needs at least two classes: with "
            "one, every answer is right"
        )
    names = None if given is None else _names(path, given)
    fits = values[0] >= 0 and (names is None or values[-1] < len(names))
    if remap or (names and not fits and len(names) == len(values)):
        if names is not None and len(names) != len(values):
            raise ConfigError(
                f"{path}: class_names has {len(names)} names, and y_train {len(values)} different "
                "labels; data.remap_labels needs as many"
            )
        shown = [str(v) if names is None else f"{v} ({names[i]!r})" for i, v in enumerate(values)]
        more = ", ..." if len(shown) > 3 else ""
        note = f"{path}: labels {', '.join(shown[:3])}{more} are numbered 0..{len(values) - 1}"
        names = [str(value) for value in values] if names is None else names
        return names, {s: _renumber(path, s, labels[s], values) for s in labels}, [note]
    if names is None:
        if values[-1] >= max(_MAX_PLAIN_CLASSES, 10 * len(values)):
            raise ConfigError(
                f"{path}: y_train goes up to {values[-1]}, with {len(values)} different labels. "
                "If they are ids, --data.remap_labels True numbers them 0, 1, 2, ..."
            )
        names = [str(value) for value in range(values[-1] + 1)]
    for split, found in labels.items():
        wrong = np.flatnonzero((found < 0) | (found >= len(names)))
        if len(wrong):
            at = wrong[0]
            raise ConfigError(
                f"{path}: y_{split}[{at}] is {found[at]}; labels are 0..{len(names) - 1} "
                "(--data.remap_labels True renumbers others)"
            )
    return names, labels, []


def _renumber(path: Path, split: str, labels: np.ndarray, values: list[int]) -> np.ndarray:
    label_of = {value: label for label, value in enumerate(values)}
    found, inverse = np.unique(labels, return_inverse=True)
    for value in found.tolist():
        if value not in label_of:
            at = int(np.flatnonzero(labels == value)[0])
            raise ConfigError(f"{path}: y_{split}[{at}] is {value}, which y_train never has")
    return np.array([label_of[value] for value in found.tolist()], np.int64)[inverse]


def _names(path: Path, given: np.ndarray) -> list[str]:
    names = np.atleast_1d(given).ravel()
    if names.dtype.kind == "S":
        try:
            names = np.char.decode(names, "utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path}: class_names holds bytes that are not UTF-8 text ({error}); save strings"
            ) from None
    return names.astype(str).tolist()


def _empty_classes(path: Path, train: ArraySource) -> list[str]:
    counts = class_counts(train)
    empty = [] if counts is None else np.flatnonzero(counts == 0).tolist()
    if not empty:
        return []
    names = listed([train.class_names[i] for i in empty])
    count = f"{len(empty)} of {len(train.class_names)} classes"
    return [f"{path}: {count} have no training images: {names}"]
