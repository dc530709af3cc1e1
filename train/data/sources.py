"""Where examples come from: anything with `len()` and `[i]`."""

import copy
import functools
import importlib.util
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from train.config import ConfigError, DataConfig
from train.data.prepare_hint import how_to_prepare
from train.data.retry import as_os_error, is_passing, read_again

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


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
        """What to call an example when speaking of it: its file, or "test[17]"."""
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
class FolderSource:
    """Image files, their labels, and the folder that names are given relative to."""

    root: Path
    files: Sequence[Path]
    labels: Sequence[int]
    class_names: Sequence[str]
    channels: int = 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        with open(self.files[index], "rb", buffering=0) as file:  # a third of read_bytes()'s time
            return Example(file.readall(), self.labels[index])

    def name(self, index: int) -> str:
        return str(self.files[index]).removeprefix(os.path.join(self.root, ""))


@dataclass(frozen=True)
class TfdsSource:
    """A prepared TFDS split, read without TensorFlow; images stay encoded until they are used."""

    records: Any
    image_key: str
    label_key: str
    class_names: Sequence[str]
    split: str
    channels: int = 3

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        try:
            record = self.records[index]
        except RuntimeError as error:
            # ArrayRecord keeps a file that it could not open, broken for good. A copy opens anew.
            self.records.data_source = copy.copy(self.records.data_source)
            raise as_os_error(str(error)) from None
        return Example(record[self.image_key], int(record[self.label_key]))

    def name(self, index: int) -> str:
        return f"{self.split}[{index}]"


@dataclass(frozen=True)
class SyntheticSource:
    """Random pixels and labels, drawn anew from the index: for benchmarks."""

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


class Splits(NamedTuple):
    """What a run trains on and what it is evaluated on."""

    train: Source
    eval: Source


def open_splits(config: DataConfig) -> Splits:
    """Opens the data set that a config names.

    Raises:
      ConfigError: it is not there, is empty, or is not what it should be.
      RunError: its storage is down.
    """
    opener = {"digits": _digits, "folder": _folder, "npz": _npz, "synthetic": _synthetic}
    if config.name in ("folder", "npz") and not config.dir:
        raise ConfigError(f"data.dir is not set: data.name {config.name!r} needs --data.dir PATH")
    where = f"data {config.name!r}" + (f" in {config.dir}" if config.dir else "")
    opened = functools.partial(opener.get(config.name, _tfds), config)
    try:
        splits, _ = read_again(opened, config.retries, where)
    except OSError as error:
        raise ConfigError(f"{where}: {error}") from None
    for split, source in zip((config.train_split, config.eval_split), splits, strict=True):
        if not len(source):
            raise ConfigError(f"data {config.name!r}: split {split!r} has no examples")
    return splits


def _held_out(count: int, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of the two parts of `count` examples that `eval_fraction` cuts."""
    order = np.random.default_rng(config.split_seed).permutation(count)
    cut = round(count * config.eval_fraction)
    return np.sort(order[cut:]), np.sort(order[:cut])


def _digits(config: DataConfig) -> Splits:
    """scikit-learn's bundled 1,797 handwritten digits, 8x8 (UCI, Alpaydin & Kaynak 1998)."""
    # load_digits() would read the same file, but importing it takes a third of a warm start.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ConfigError("data.name 'digits': comes with scikit-learn, which is not installed")
    table = np.loadtxt(Path(spec.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, -1].astype(np.int64)
    names = [str(digit) for digit in range(10)]
    train, test = _held_out(len(images), config)
    return Splits(
        ArraySource(images[train], labels[train], names, "train"),
        ArraySource(images[test], labels[test], names, "test"),
    )


def _synthetic(config: DataConfig) -> Splits:
    names = [str(i) for i in range(config.classes)]
    return Splits(
        *(SyntheticSource(config.examples, config.image_size, names, s) for s in ("train", "test"))
    )


def _npz(config: DataConfig) -> Splits:
    """Keras's layout: x_train, y_train, x_test, y_test, and class_names if there are any."""
    path = Path(str(config.dir)).expanduser()
    if not path.is_file():
        raise ConfigError(f"data.dir {str(path)!r}: no such file; npz needs an .npz file")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if is_passing(error):
            raise
        raise ConfigError(f"data.dir {str(path)!r}: not a readable .npz file ({error})") from None
    missing = [key for key in ("x_train", "y_train", "x_test", "y_test") if key not in arrays]
    if missing:
        raise ConfigError(
            f"{path}: no array {', '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}"
        )
    labels = np.asarray(arrays["y_train"]).ravel()
    if not labels.size:
        raise ConfigError(f"{path}: split 'train' has no examples")
    names = arrays.get("class_names")
    if names is None and np.issubdtype(labels.dtype, np.integer):
        names = np.arange(int(labels.max()) + 1)
    class_names = [] if names is None else np.atleast_1d(names).astype(str).tolist()
    return Splits(*(_npz_split(path, arrays, s, class_names) for s in ("train", "test")))


def _npz_split(
    path: Path, arrays: dict[str, np.ndarray], split: str, class_names: list[str]
) -> ArraySource:
    images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"].ravel()
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ConfigError(
            f"{path}: x_{split} is {images.dtype} {images.shape}; needs uint8 [N, H, W] or "
            "[N, H, W, 1 or 3]"
        )
    if len(labels) != len(images) or not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError(
            f"{path}: y_{split} is {labels.dtype} {labels.shape}; needs {len(images)} integers"
        )
    bad = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(bad):
        raise ConfigError(
            f"{path}: y_{split}[{bad[0]}] is {labels[bad[0]]}; labels are 0..{len(class_names) - 1}"
        )
    return ArraySource(images, labels, class_names, split)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _folder(config: DataConfig) -> Splits:
    """DIR/{train,val}/CLASS/*, or DIR/CLASS/* cut by `eval_fraction`."""
    root = Path(str(config.dir)).expanduser()
    if not root.is_dir():
        raise ConfigError(f"data.dir {str(root)!r}: no such folder")
    there = [split for split in (config.train_split, config.eval_split) if (root / split).is_dir()]
    if len(there) == 1:
        missing = ({config.train_split, config.eval_split} - set(there)).pop()
        raise ConfigError(
            f"{root}: has {there[0]!r} but no {missing!r} folder; "
            f"it holds {', '.join(p.name for p in _subfolders(root))}"
        )
    if not there:
        whole = _read_folder(root, root, None)
        labels = np.asarray(whole.labels)
        parts = _held_out(len(whole), config)
        return Splits(
            *(
                FolderSource(
                    root, [whole.files[i] for i in p], labels[p].tolist(), whole.class_names
                )
                for p in parts
            )
        )
    train = _read_folder(root, root / config.train_split, None)
    return Splits(train, _read_folder(root, root / config.eval_split, train.class_names))


def _read_folder(root: Path, folder: Path, class_names: Sequence[str] | None) -> FolderSource:
    classes = [p.name for p in _subfolders(folder)]
    if not classes:
        raise ConfigError(f"{folder}: no class folders in it; needs {folder}/CLASS/*.jpg")
    unknown = sorted(set(classes) - set(class_names or classes))
    if class_names and unknown:
        raise ConfigError(
            f"{folder}: class {unknown[0]!r} has no training images; "
            f"the training classes are {', '.join(class_names)}"
        )
    names = list(class_names or classes)
    files, labels = [], []
    for name in classes:
        files_here = (p for p in (folder / name).rglob("*") if p.is_file())
        found = sorted(p for p in files_here if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ConfigError(f"{folder / name}: no images in it ({', '.join(IMAGE_SUFFIXES)})")
        files += found
        labels += [names.index(name)] * len(found)
    return FolderSource(root, files, labels, names)


def _tfds(config: DataConfig) -> Splits:
    """Any prepared TFDS data set with one image and one class label an example."""
    import tensorflow_datasets as tfds

    data_dir = Path(config.dir or tfds.core.constants.DATA_DIR).expanduser()
    name = config.name.partition(":")[0]
    if not (data_dir / name).is_dir():
        prepared = [p.name for p in _subfolders(data_dir)] if data_dir.is_dir() else []
        raise ConfigError(how_to_prepare(config.name, data_dir, prepared))
    try:
        builder = tfds.builder(config.name, data_dir=data_dir)
    except Exception as error:  # TFDS has a class for every way a name can be wrong
        if is_passing(error):
            raise
        raise ConfigError(f"data.name {config.name!r} in {data_dir}: {error}") from None
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ConfigError(
            f"{builder.data_path}: is in {builder.info.file_format.value} format, and random "
            "access needs array_record. Convert it with: pip install 'resnet-jax[prepare]' && "
            f"tfds convert_format --dataset_version_dir={builder.data_path} "
            "--out_file_format=array_record --out_dir=NEW_DIR"
        )
    features = builder.info.features
    images = [key for key, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [key for key, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if not images or not labels:
        raise ConfigError(f"data.name {config.name!r}: needs an image and a label, has {features}")
    image_key = "image" if "image" in images else images[0]
    label_key = "label" if "label" in labels else labels[0]

    def source(split: str) -> TfdsSource:
        skip = {image_key: tfds.decode.SkipDecoding()}
        try:
            records = builder.as_data_source(split, decoders=skip)
        except ValueError as error:
            raise ConfigError(f"data split {split!r} of {config.name!r}: {error}") from None
        return TfdsSource(records, image_key, label_key, features[label_key].names, split)

    return Splits(source(config.train_split), source(config.eval_split))
