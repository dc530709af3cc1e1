"""Reads and verifies one checkpoint, in one process.

A checkpoint has arrays and a record: its step, the progress, the metrics, and the digest of every
array at the time of saving (`train.checkpoint.digests`). The record has its own checksum. So every
changed bit between the saving device and this reader is found, in the arrays, their names and
shapes, and the progress.
"""

import hashlib
import json
import re
import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts

from train.checkpoint.digests import describe, host_digest, named
from train.config import ConfigError

Progress = dict[str, Any]
"""The data besides the state that a resume needs, as JSON: for example the logging window."""

READ_AHEAD = 256 * 2**20
"""Maximum bytes of arrays that a reader holds on the host at once."""


class CorruptCheckpoint(Exception):
    """A checkpoint that differs from what was saved; the message names the difference."""


class OtherModel(ConfigError):
    """A checkpoint with the arrays of another model; the message names the first difference."""


class Record(NamedTuple):
    """The record of a checkpoint."""

    progress: Progress
    metrics: dict[str, float] | None
    """Of an evaluation at this step; None: there was none."""
    digests: dict[str, str] | None
    """By path of the array; None in checkpoints of old versions."""


class CheckpointData(NamedTuple):
    """All data of a checkpoint, on the host."""

    step: int
    record: Record
    arrays: dict[str, np.ndarray]
    """By path."""


def to_json(step: int, record: Record) -> dict[str, Any]:
    """The saved form of a record, with its checksum."""
    content = json.loads(json.dumps({"step": step, **record._asdict()}))
    return {"content": content, "sha256": _checksum(content)}


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> Record:
    """The record of the checkpoint in `folder`, whose name is its step.

    Raises:
      CorruptCheckpoint: it is unreadable, or differs from what was saved.
    """
    saved = _read_json(folder / "progress" / "metadata")
    if not {"content", "sha256"} & saved.keys():  # old versions had no digests
        metrics = folder / "metrics" / "metrics"
        return Record(saved, _read_json(metrics) if metrics.exists() else None, None)
    content: Any = saved.get("content")
    if saved.get("sha256") != _checksum(content):
        raise CorruptCheckpoint("progress/metadata: not what was saved, by its checksum")
    if str(content["step"]) != folder.name:
        raise CorruptCheckpoint(f"it was saved as step {content['step']}")
    return Record(content["progress"], content["metrics"], content["digests"])


def _read_json(path: Path) -> dict[str, Any]:
    where = path.relative_to(path.parents[1])
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CorruptCheckpoint(f"{where}: {error.strerror}") from error
    except ValueError as error:
        raise CorruptCheckpoint(f"{where}: not readable as JSON") from error
    if not isinstance(content, dict):
        raise CorruptCheckpoint(f"{where}: not a record")
    return content


class Stored(NamedTuple):
    """An opened checkpoint. Its record has been read, its arrays have not."""

    folder: Path
    record: Record
    arrays: dict[str, Any]
    """TensorStore arrays by path, with the shapes and dtypes that were saved."""

    def read(self, ranges: Mapping[str, tuple[slice, ...]]) -> Iterator[tuple[str, np.ndarray]]:
        """Reads a range of each array.

        It reads ahead, but holds at most `READ_AHEAD` bytes, or one range if that is larger.

        Args:
          ranges: path of an array -> the range to read.

        Yields:
          (path, the elements in the range).

        Raises:
          CorruptCheckpoint: an array is unreadable.
        """
        parts = {name: self.arrays[name][ranges[name]] for name in ranges}
        waiting, reading, held = deque(parts.items()), deque[Any](), 0
        while waiting or reading:
            while waiting and (not reading or held + _bytes(waiting[0][1]) <= READ_AHEAD):
                name, part = waiting.popleft()
                reading.append((name, _bytes(part), part.read()))
                held += _bytes(part)
            name, size, future = reading.popleft()
            try:
                yield name, np.asarray(future.result())
            except (ValueError, OSError) as error:  # TensorStore's
                raise CorruptCheckpoint(_describe_error(self.folder, str(error))) from error
            del future
            held -= size

    def check(self, found: Mapping[str, str]) -> None:
        """Compares digests of arrays, by path, with those that were saved.

        Raises:
          CorruptCheckpoint: a digest differs.
        """
        for name, digest in found.items():
            saved = self.record.digests[name] if self.record.digests is not None else digest
            if digest != saved:
                raise CorruptCheckpoint(
                    f"state: {name} is not what was saved ({digest}, not {saved})"
                )


def open_checkpoint(folder: Path, state: Any = None) -> Stored:
    """Opens the checkpoint in `folder`, whose name is its step. No array is read.

    Each process reads by itself; nothing here waits for other processes.

    Args:
      state: a tree whose paths, shapes and dtypes the checkpoint must have; None: no check.

    Raises:
      CorruptCheckpoint: data are unreadable, missing, or differ from what was saved.
      OtherModel: the checkpoint does not match `state`.
    """
    record = read_record(folder)
    digests = record.digests
    saved = {name: digest.rsplit(" ", 1)[0] for name, digest in (digests or {}).items()}
    if digests is not None:
        _check_model(folder, saved, state)
    try:
        stored = _open_arrays(folder / "state")
    except (ValueError, OSError) as error:  # TensorStore's
        raise CorruptCheckpoint(_describe_error(folder, str(error))) from error
    found = {name: describe(array) for name, array in stored.items()}
    if digests is None:
        _check_model(folder, found, state)
    elif name := _first_difference(saved, found):
        raise CorruptCheckpoint(f"state: {name} is {found.get(name, 'missing')}")
    return Stored(folder, record, stored)


def read(folder: Path) -> CheckpointData:
    """Reads and verifies all of the checkpoint in `folder`, into this process's memory.

    Raises:
      CorruptCheckpoint: data are unreadable, missing, or differ from what was saved.
    """
    stored = open_checkpoint(folder)
    return CheckpointData(int(folder.name), stored.record, dict(_verified(stored, stored.arrays)))


def verify(folder: Path, choose: Callable[[Iterable[str]], Iterable[str]] = list) -> None:
    """Verifies arrays of the checkpoint in `folder`, a few at a time. Raises as `read`.

    Args:
      choose: all paths -> the paths to verify; default: all.
    """
    stored = open_checkpoint(folder)
    for _ in _verified(stored, choose(stored.arrays)):
        pass


def _verified(stored: Stored, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    whole = {name: tuple(map(slice, stored.arrays[name].shape)) for name in names}
    for name, array in stored.read(whole):
        stored.check({name: host_digest(array)})
        yield name, array


def _bytes(array: Any) -> int:
    return int(array.size * array.dtype.numpy_dtype.itemsize)


_TENSORSTORE = re.compile(
    r'(?:"(?P<array>[^"]+)/[^"/]*" in [^"]*)?local file "(?P<file>[^"]*)"(?:: (?P<why>.*))?'
)
"""Error reading "params.head.kernel/0.0" in OCDBT database at local file "/.../60/state/": why"""


def _describe_error(folder: Path, text: str) -> str:
    """A short form of TensorStore's message (up to 3 kB): the file of the checkpoint, the error."""
    text = " ".join(text.split())
    found = _TENSORSTORE.search(text)
    if not found:
        return f"state: {textwrap.shorten(text, 300, placeholder=' ...')}"
    file = found["file"].removeprefix(f"{folder}/").rstrip("/")
    where = f"{file}, array {found['array']}" if found["array"] else file
    why = found["why"] or ("missing" if text.startswith("NOT_FOUND") else "cannot be read")
    return f"{where}: {textwrap.shorten(why, 300, placeholder=' ...')}"


def _check_model(folder: Path, saved: dict[str, str], state: Any) -> None:
    wanted = {name: describe(leaf) for name, leaf in named(state).items()}
    if state is not None and (name := _first_difference(wanted, saved)):
        raise OtherModel(
            f"{folder} is a checkpoint of another model: {name} is {saved.get(name, 'missing')} "
            f"there and {wanted.get(name, 'missing')} in this run"
        )


def _first_difference(one: dict[str, str], other: dict[str, str]) -> str | None:
    return next((name for name in [*one, *other] if one.get(name) != other.get(name)), None)


def _open_arrays(folder: Path) -> dict[str, Any]:
    """Opens the arrays that Orbax wrote, by path: each is a Zarr array in TensorStore's OCDBT.

    Orbax's own reader is not used, because it waits for other processes and prints a traceback for
    everything that it cannot read.
    """
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    keys = [key.decode() for key in ts.KvStore.open(store).result().list().result()]
    names = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
    if not names:
        raise CorruptCheckpoint("state/manifest.ocdbt: missing, or it names no arrays")
    opening = {
        name.replace(".", "/"): ts.open(
            {"driver": "zarr", "kvstore": {**store, "path": f"{name}/"}}, open=True, read=True
        )
        for name in names
    }
    return {name: future.result() for name, future in opening.items()}
