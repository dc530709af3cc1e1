"""The list of a run's image files: saved with the run, and compared when the run is used again.

`config.json` has the number of files and a digest of their names. `files.json.gz` has the names, so
that a change can be described. Only folders of photos have lasting names.
"""

import gzip
import hashlib
import json
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.data.sources import FolderSource, Splits
from train.paths import expand
from train.printable import utf8

_FILE = "files.json.gz"
_SAMPLE = 16  # number of training files whose content is compared too
_SHOWN = 3  # number of names in a message


class Change(NamedTuple):
    """How a list of files changed; the names are None if the old list is not known."""

    before: int
    now: int
    added: list[str] | None
    removed: list[str] | None

    def __str__(self) -> str:
        if self.added is None or self.removed is None:
            return f"{self.before:,} files then, {self.now:,} now"
        pairs = (("added", self.added), ("removed", self.removed))
        return ", ".join(
            f"{len(names):,} {what} ({shown(names)})" for what, names in pairs if names
        )


def shown(names: Sequence[str]) -> str:
    """The first names of a list, as printable text."""
    more = ", ..." if len(names) > _SHOWN else ""
    return utf8(", ".join(names[:_SHOWN]) + more)


def summary(splits: Splits) -> dict[str, Any] | None:
    """The summary of the files in `config.json`; None if the data are not a folder of photos."""
    train, evaluation = splits
    if not isinstance(train, FolderSource) or not isinstance(evaluation, FolderSource):
        return None
    return {
        "folder": str(train.root.resolve()),
        "train": _digest(train.file_names()),
        "eval": _digest(evaluation.file_names()),
        "sample": _sample(train),
    }


def write_names(workdir: Path, splits: Splits) -> None:
    """Saves the names of all files of a folder of photos."""
    lists = {
        split: source.file_names()
        for split, source in zip(("train", "eval"), splits, strict=True)
        if isinstance(source, FolderSource)
    }
    if lists:
        with gzip.open(workdir / _FILE, "wt", compresslevel=1, encoding="ascii") as file:
            json.dump(lists, file)


def find_change(
    workdir: Path, began: dict[str, Any], now: dict[str, Any], splits: Splits, split: str
) -> Change | None:
    """How the files of `split` differ from those at the start of the run.

    Args:
      began, now: `summary` of the data at the start of the run, and of `splits`.
      split: "train" or "eval".

    Returns:
      The change; None if the files are the same.
    """
    if now[split] == began[split]:
        return None
    names, old = _names(splits, split), _read_names(workdir)
    counts = (began[split]["count"], now[split]["count"])
    if old is None:
        return Change(*counts, None, None)
    then, today = set(old[split]), set(names)
    return Change(*counts, sorted(today - then), sorted(then - today))


def trained_on(workdir: Path, splits: Splits, split: str = "eval") -> list[str]:
    """The files of a split that were training files of the run.

    Args:
      splits: the splits of the run's folder, or of a copy.
    """
    old = _read_names(workdir)
    return sorted(set(old["train"]) & set(_names(splits, split))) if old else []


class Overlap(NamedTuple):
    """Training files of a run that another folder seems to contain."""

    names: list[str]
    """Their names at the start of the run."""
    is_sure: bool
    """Whether the contents of some files were compared and are equal."""


def overlap(
    workdir: Path, began: dict[str, Any], classes: Sequence[str], splits: Splits
) -> Overlap:
    """The run's training files among the evaluation files of another folder.

    Files are compared by class and by path inside the class folder. A few are compared by content
    too, because cameras number their photos, so equal names prove little.

    Args:
      began: the `summary` in the run's config.json.
      classes: the run's class names.
    """
    old, source = _read_names(workdir), splits.eval
    if old is None or not isinstance(source, FolderSource):
        return Overlap([], False)
    root, home = source.root.resolve(), Path(began["folder"])
    if root.is_relative_to(home):  # inside the run's own folder, so the names are comparable
        start = root.relative_to(home)
        here = {(start / name).as_posix() for name in source.file_names()}
        return Overlap(sorted(here & set(old["train"])), True)
    names = {unicodedata.normalize("NFC", name) for name in classes}
    now = {_in_class(n, names): f for n, f in zip(source.file_names(), source.files, strict=True)}
    found = sorted(name for name in old["train"] if _in_class(name, names) in now)
    sample = began["sample"]
    if isinstance(sample, str):
        files = [now.get(_in_class(name, names)) for name in _spread(old["train"])]
        return Overlap(found, bool(found) and _joint_digest(files) == sample)
    pairs = [
        (_content(now[key]), digest)
        for name, digest in sample.items()
        if (key := _in_class(name, names)) in now
    ]
    equal = sum(a == b for a, b in pairs)
    if pairs and 2 * equal < len(pairs):
        return Overlap([], False)
    return Overlap(found, bool(found and equal))


def _in_class(name: str, classes: set[str]) -> str:
    """CLASS/FILE of "CLASS/FILE" or "train/CLASS/FILE"."""
    first, _, rest = name.partition("/")
    return name if first in classes else rest


def same_folder(a: str, b: str) -> bool:
    """Whether two paths lead to the same folder, absolute or relative, also through links."""
    first, second = expand(a, "data.dir"), expand(b, "data.dir")
    try:
        return first.resolve() == second.resolve() or os.path.samefile(first, second)
    except OSError:
        return False


def _names(splits: Splits, split: str) -> list[str]:
    source = splits.train if split == "train" else splits.eval
    return source.file_names() if isinstance(source, FolderSource) else []


def _digest(names: list[str]) -> dict[str, Any]:
    text = "\n".join(sorted(names)).encode("utf-8", "surrogateescape")
    return {"count": len(names), "sha256": hashlib.sha256(text).hexdigest()}


def _sample(source: FolderSource) -> dict[str, str]:
    """Content digests of a few files, evenly spaced in the list: {name: digest}."""
    files = dict(zip(source.file_names(), source.files, strict=True))
    return {name: _content(files[name]) for name in _spread(list(files))}


def _spread(names: Sequence[str]) -> list[str]:
    count = min(_SAMPLE, len(names))
    return [names[i * len(names) // count] for i in range(count)]


def _joint_digest(files: Sequence[Path | None]) -> str:
    """The format of earlier versions: one digest of all sampled files."""
    found = hashlib.sha256()
    for path in files:
        try:
            found.update(hashlib.sha256(path.read_bytes()).digest() if path else b"unreadable")
        except OSError:
            found.update(b"unreadable")
    return found.hexdigest()


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return "unreadable"


def _read_names(workdir: Path) -> dict[str, list[str]] | None:
    try:
        with gzip.open(workdir / _FILE, "rt", encoding="ascii") as file:
            return json.load(file)
    except (OSError, EOFError, ValueError):
        return None
