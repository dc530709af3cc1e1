"""Prepared TFDS data sets, read without TensorFlow."""

import contextlib
import copy
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.config import ConfigError, DataConfig
from train.data.retry import as_os_error, is_temporary
from train.data.sources.base import Example, Splits, data_path, listed
from train.data.sources.prepare_hint import NotPrepared


@dataclass(frozen=True)
class TfdsSource:
    """A split of a prepared TFDS data set; its images are encoded."""

    records: Any
    image_key: str
    label_key: str
    class_names: Sequence[str]
    split: str
    channels: int = 3

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        with self._reopened():
            record = self.records[index]
        return Example(record[self.image_key], int(record[self.label_key]))

    def labels_at(self, rows: range) -> list[int]:
        """The labels of several examples, which takes a fifth of the time of one by one."""
        with self._reopened():
            records = self.records.__getitems__(list(rows))
        return [int(record[self.label_key]) for record in records]

    @contextlib.contextmanager
    def _reopened(self) -> Iterator[None]:
        """Raises an `OSError` for ArrayRecord's errors, and opens the files anew after them."""
        try:
            yield
        except RuntimeError as error:
            # After a file could not be opened, ArrayRecord never tries again. A copy opens it anew.
            self.records.data_source = copy.copy(self.records.data_source)
            raise as_os_error(str(error)) from None

    def name(self, index: int) -> str:
        return f"{self.split}[{index}]"


def open_tfds(config: DataConfig) -> Splits:
    """Opens any prepared TFDS data set whose examples have an image and a class label.

    Raises:
      ConfigError: the data set is not prepared, is not in ArrayRecord format, or it is unclear
        which of its features are the image and the label.
    """
    import tensorflow_datasets as tfds

    builder = _builder(config)
    features = builder.info.features
    supervised = builder.info.supervised_keys
    image, label = supervised[:2] if isinstance(supervised, tuple) else (None, None)
    image_key = _key("image", features, tfds.features.Image, config.image_key, image, config.name)
    label_key = _key(
        "label", features, tfds.features.ClassLabel, config.label_key, label, config.name
    )

    def source(split: str) -> TfdsSource:
        skip = {image_key: tfds.decode.SkipDecoding()}
        try:
            records = builder.as_data_source(split, decoders=skip)
        except ValueError as error:
            raise ConfigError(f"data split {split!r} of {config.name!r}: {error}") from None
        return TfdsSource(records, image_key, label_key, features[label_key].names, split)

    chosen = {"image_key": image_key, "label_key": label_key}
    others = [
        key for key in sorted(features) if isinstance(features[key], tfds.features.ClassLabel)
    ]
    note = f"{config.name}: the label is {label_key!r}, one of {len(others)} (data.label_key)"
    notes = [note] if len(others) > 1 and config.label_key is None else []
    splits = (source(config.train_split), source(config.eval_split))
    test = source(config.test_split) if config.test_split else None
    notes += _overlaps(builder, config)
    return Splits(*splits, notes=notes, chosen=chosen, test=test)


def _overlaps(builder: Any, config: DataConfig) -> list[str]:
    """Notes about examples that two splits share, such as "train" and "train[45000:]"."""
    options = ("train_split", "eval_split", "test_split")
    named = {option: spec for option in options if (spec := getattr(config, option))}
    parts = {option: _parts(builder, spec) for option, spec in named.items()}
    notes = []
    for one, other in itertools.combinations(named, 2):
        shared = sum(
            max(min(stop, end) - max(start, first), 0)
            for file, start, stop in parts[one]
            for name, first, end in parts[other]
            if file == name
        )
        if shared:
            notes.append(
                f"data.{one} {named[one]!r} and data.{other} {named[other]!r} share {shared:,} "
                "examples"
            )
    return notes


def _parts(builder: Any, spec: str) -> list[tuple[str, int, int]]:
    """(file, first example, end) of each part of a split."""
    return [
        (part.filename, part.skip, part.skip + part.take)
        for part in builder.info.splits[spec].file_instructions
    ]


def _builder(config: DataConfig) -> Any:
    import tensorflow_datasets as tfds

    default = os.path.expanduser(tfds.core.constants.DATA_DIR)
    data_dir = data_path(config) if config.dir else Path(default)
    if not (data_dir / config.name.partition(":")[0]).is_dir():
        raise NotPrepared(config.name, data_dir)
    try:
        builder = tfds.builder(config.name, data_dir=data_dir)
    except Exception as error:  # TFDS raises many types for an invalid name
        if is_temporary(error):
            raise
        raise ConfigError(f"data.name {config.name!r} in {data_dir}: {error}") from None
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ConfigError(
            f"{builder.data_path}: is in {builder.info.file_format.value} format, and random "
            "access needs array_record. Convert it with: pip install -e '.[prepare]' && "
            f"tfds convert_format --dataset_version_dir={builder.data_path} "
            "--out_file_format=array_record --out_dir=NEW_DIR"
        )
    return builder


def _key(
    what: str, features: Any, kind: type, given: str | None, supervised: Any, data_name: str
) -> str:
    """The name of the feature that is the image, or the label.

    In this order: the feature that the option names; the one that the data set declares
    (`supervised_keys`); the only one of its type; the one called "image" or "label". The order of
    the features is not used: it is that of a Python set, which differs between processes.
    """
    option = f"data.{what}_key"
    names = sorted(key for key, feature in features.items() if isinstance(feature, kind))
    if not names:
        held = [f"{key!r} ({type(features[key]).__name__})" for key in sorted(features)]
        raise ConfigError(
            f"data.name {data_name!r}: needs an image and a label, has {', '.join(held)}"
        )
    if given is not None:
        if given not in names:
            raise ConfigError(
                f"{option} {given!r}: no {what} of {data_name!r}; choose from {', '.join(names)}"
            )
        return given
    if supervised in names:
        return str(supervised)
    if len(names) == 1 or what in names:
        return names[0] if len(names) == 1 else what
    raise ConfigError(
        f"data.name {data_name!r}: has {len(names)} features that may be the {what}: "
        f"{listed(names, most=30)}; choose one: --{option} NAME"
    )
