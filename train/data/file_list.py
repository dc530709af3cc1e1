"""Which files a run trains on and is evaluated on: kept with the run, and compared later.

`config.json` keeps their number and a digest of their names; `files.json.gz` the names, so that a
change can be described. Only folders of photos have names that last.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.data.sources import FolderSource, Splits
from train.names import utf8
from train.paths import expand

_FILE = "files.json.gz"
_SAMPLE = 16  # training files of which the content is compared too
_SHOWN = 3  # names of a change in a message


class Change(NamedTuple):
    """What happened to a list of files; names are None where the old list is not known."""

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
    """The first names of a list, printable anywhere."""
    more = ", ..." if len(names) > _SHOWN else ""
    return utf8(", ".join(names[:_SHOWN]) + more)


def summary(splits: Splits) -> dict[str, Any] | None:
    """What `config.json` keeps of the files; None for data that are no folder of photos."""
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
    """Keeps the names of all files of a folder of photos."""
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
    """How the files of "train" or "eval" differ from those that the run began with.

    Args:
      began, now: `summary` of the data when the run began, and of `splits`.

    Returns:
      None if they are the same.
    """
    if now[split] == began[split]:
        return None
    names, old = _names(splits, split), _read_names(workdir)
    counts = (began[split]["count"], now[split]["count"])
    if old is None:
        return Change(*counts, None, None)
    then, today = set(old[split]), set(names)
    return Change(*counts, sorted(today - then), sorted(then - today))


def trained_on(workdir: Path, began: dict[str, Any], splits: Splits, *, own: bool) -> list[str]:
    """The files of the evaluation split that the run was trained on, as far as is known.

    Args:
      began: the `summary` that the run kept.
      own: the data are the run's own, wherever they are now; else only files in the folder that the
        run was trained on can be known.
    """
    old = _read_names(workdir)
    if old is None or not isinstance(splits.eval, FolderSource):
        return []
    names = splits.eval.file_names()
    if not own:
        home, root = os.path.join(began["folder"], ""), splits.eval.root.resolve()
        paths = (str(root / name) for name in names)
        names = [path.removeprefix(home) for path in paths if path.startswith(home)]
    return sorted(set(old["train"]) & set(names))


def is_copy(began: dict[str, Any], splits: Splits) -> bool:
    """Whether these are the run's own data in another place: all names, and a few contents."""
    now = summary(splits)
    return now is not None and all(now[key] == began[key] for key in ("train", "eval", "sample"))


def same_folder(a: str, b: str) -> bool:
    """Whether two paths are one folder: through links, relative or not, with or without a "/"."""
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


def _sample(source: FolderSource) -> str:
    """A digest of the content of a few files, spread over the list."""
    found = hashlib.sha256()
    for place in range(min(_SAMPLE, len(source))):
        path = source.files[place * len(source) // min(_SAMPLE, len(source))]
        try:
            found.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            found.update(b"unreadable")
    return found.hexdigest()


def _read_names(workdir: Path) -> dict[str, list[str]] | None:
    try:
        with gzip.open(workdir / _FILE, "rt", encoding="ascii") as file:
            return json.load(file)
    except (OSError, EOFError, ValueError):
        return None
