"""CSV files of `path,label` rows: one file with a held-out share, or one for each split."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.config import ConfigError, DataConfig
from train.data.sources.base import Splits, counts_of, data_path, listed, nfc
from train.data.sources.folder import FolderSource
from train.data.sources.held_out import held_out_by_name, held_out_by_place
from train.data.sources.listing import IMAGE_SUFFIXES

_PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
_LABELS = ("label", "labels", "class", "classes", "target", "category")
"""Titles of the two columns."""


@dataclass(frozen=True)
class CsvSource(FolderSource):
    """Image files and their labels, from the rows of a CSV file."""

    rows: Sequence[str] = field(default=(), kw_only=True)
    """The path and the label of each file, as they are written in the CSV file."""

    def file_names(self) -> list[str]:
        """The rows, by which a run recognises its files: a changed label is another row."""
        return nfc(self.rows)

    def subset(self, indices: np.ndarray) -> "CsvSource":
        """The files at these indices."""
        labels = np.asarray(self.labels)[indices]
        files, rows = ([each[i] for i in indices] for each in (self.files, self.rows))
        found = labels if labels.ndim == 2 else labels.tolist()
        return CsvSource(self.root, files, found, self.class_names, rows=rows)


class _Row(NamedTuple):
    where: str
    """The CSV file and the line, for messages."""
    path: str
    label: str


def open_csv(
    config: DataConfig, *, whole: bool = False, class_names: Sequence[str] | None = None
) -> Splits:
    """Opens FILE.csv, of which a share is held out, or DIR with a CSV file for each split.

    Args:
      whole: evaluate all rows: for files that the run was not trained on.
      class_names: the names of the labels, of which the rows may lack some; None: those of the
        training rows, in ascending order.

    Raises:
      ConfigError: a CSV file or an image file does not exist, or a row has no label.
    """
    path, read = data_path(config), partial(_read, several=config.multi_label)
    if whole:
        files = [_file_of(path, config.eval_split), _file_of(path, config.train_split)]
        used = next((file for file in files if file.is_file()), files[0])
        source = read(used, class_names)
        return Splits(source, source, unused=_held_out_options(f"all rows of {used} are evaluated"))
    if config.test_split and not path.is_dir():
        raise ConfigError(
            f"data.test_split {config.test_split!r}: needs a folder with a CSV file for each split "
            f"as data.dir, and {str(path)!r} is not a folder"
        )
    train = read(_file_of(path, config.train_split), class_names)
    names, test, evaluation = train.class_names, None, _file_of(path, config.eval_split)
    if config.test_split:
        test = read(_file_of(path, config.test_split), names)
    if path.is_dir() and (evaluation.is_file() or test is None):
        unused = _held_out_options(f"{path} has {evaluation.name}")
        return Splits(train, read(evaluation, names), unused=unused, test=test)
    parts = _hold_out(train, config)
    options = ("eval_split",) if path.is_dir() else ("train_split", "eval_split")
    reason = "data.eval_fraction of the training rows is held out"
    return Splits(*parts, unused=dict.fromkeys(options, reason), test=test)


def _file_of(path: Path, split: str) -> Path:
    """The CSV file of a split."""
    return path / f"{split}.csv" if path.is_dir() else path


def _held_out_options(reason: str) -> dict[str, str]:
    return dict.fromkeys(("eval_fraction", "split_seed", "held_out"), reason)


def _read(path: Path, class_names: Sequence[str] | None, *, several: bool) -> CsvSource:
    """The rows of a CSV file, whose image files exist.

    Args:
      several: whether a row may have several labels, or none.
    """
    rows = _rows(path)
    unlabelled = None if several else next((row for row in rows if not row.label), None)
    if unlabelled:
        raise ConfigError(f"{unlabelled.where}: has no label")
    missing = [row for row in rows if not os.path.isfile(path.parent / row.path)]
    if missing:
        first = missing[0]
        more = f", and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise ConfigError(
            f"{first.where}: no such file: {first.path!r}{more}. Relative paths start at "
            f"{path.parent}"
        )
    found = _split_labels([row.label for row in rows]) if several else [[r.label] for r in rows]
    found = [nfc(labels) for labels in found]
    every = {label for labels in found for label in labels}
    names = _ascending(every) if class_names is None else class_names
    label_of = {name: label for label, name in enumerate(nfc(names))}
    for row, labels in zip(rows, found, strict=True):
        if unknown := [label for label in labels if label not in label_of]:
            raise ConfigError(
                f"{row.where}: class {unknown[0]!r} has no training images; the training classes "
                f"are {listed(names, most=20)}"
            )
    numbers = [[label_of[label] for label in labels] for labels in found]
    files = [path.parent / row.path for row in rows]
    texts = [f"{row.path},{row.label}" for row in rows]
    if several:
        return CsvSource(path.parent, files, _matrix(numbers, len(names)), names, rows=texts)
    return CsvSource(path.parent, files, [number for (number,) in numbers], names, rows=texts)


def _split_labels(cells: Sequence[str]) -> list[list[str]]:
    """The labels of each cell, separated by ";", or by spaces if no cell has a ";"."""
    separator = ";" if any(";" in cell for cell in cells) else None
    return [[x.strip() for x in cell.split(separator) if x.strip()] for cell in cells]


def _matrix(numbers: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """uint8 [N, classes]: 1 for each number of a row."""
    matrix = np.zeros((len(numbers), classes), np.uint8)
    for row, labels in zip(matrix, numbers, strict=True):
        row[labels] = 1
    return matrix


def _ascending(names: set[str]) -> list[str]:
    """Sorted; as numbers, if all are integers."""
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=int if numbers else None)


def _rows(path: Path) -> list[_Row]:
    """The rows of a CSV file without its header; blank lines are skipped.

    The first row is a header if its first cell has no extension of an image file. If it has known
    titles, such as "path" and "label", they name the columns; else the first two columns count.
    """
    if not path.is_file():
        others = sorted(file.name for file in path.parent.glob("*.csv"))
        holds = f"; {path.parent} has {listed(others)}" if others else ""
        raise ConfigError(
            f"{path}: no such file{holds}. csv needs a CSV file, or a folder with one for each "
            "split, as data.dir"
        )
    found: list[_Row] = []
    columns, is_first = (0, 1), True
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if not any(cells):
                    continue
                if is_first and _is_header(cells):
                    columns = _columns(cells)
                else:
                    found.append(_row(f"{path}, line {reader.line_num}", cells, columns))
                is_first = False
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: {error}") from None
    return found


def _row(where: str, cells: list[str], columns: tuple[int, int]) -> _Row:
    if len(cells) <= max(columns):
        raise ConfigError(f"{where}: has {len(cells)} column; needs a path and a label")
    path, label = (cells[column].strip() for column in columns)
    if not path:
        raise ConfigError(f"{where}: has no path")
    return _Row(where, path, label)


def _is_header(cells: list[str]) -> bool:
    return os.path.splitext(cells[0].strip())[1].lower() not in IMAGE_SUFFIXES


def _columns(titles: list[str]) -> tuple[int, int]:
    """The columns of the path and of the label."""
    known = [title.strip().lower() for title in titles]
    path = next((known.index(title) for title in _PATHS if title in known), None)
    label = next((known.index(title) for title in _LABELS if title in known), None)
    if path is None or label is None:
        return 0, 1
    return path, label


def _hold_out(source: CsvSource, config: DataConfig) -> tuple[CsvSource, CsvSource]:
    """A share of the rows, by a hash of each path or by place."""
    fraction, seed = config.eval_fraction, config.split_seed
    if config.held_out == "by_place":
        held = held_out_by_place(len(source), fraction, seed)
    else:
        held = held_out_by_name([source.name(i) for i in range(len(source))], fraction, seed)
    train, evaluation = source.subset(np.flatnonzero(~held)), source.subset(np.flatnonzero(held))
    counts = counts_of(np.asarray(train.labels), len(source.class_names))
    if empty := [name for name, n in zip(source.class_names, counts, strict=True) if not n]:
        raise ConfigError(
            f"{config.dir}: all rows of {listed(empty)} are in the held-out share "
            f"(data.eval_fraction {fraction}). Add images, choose another --data.split_seed, or "
            "write a CSV file for each split"
        )
    return train, evaluation
