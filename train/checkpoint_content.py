"""One checkpoint as one process reads it: on the host, and believed only if it is whole.

Beside the arrays, a checkpoint holds a record: its step, the progress, the metrics, and what
`train.digests` said of every array when it was saved. The record has a checksum of its own. So a
bit that flipped anywhere between the device and here is found: in the arrays, in their names and
shapes, in the progress.
"""

import hashlib
import json
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts

from train.config import ConfigError
from train.digests import describe, host_digest, named

Progress = dict[str, Any]
"""What a resume needs beside the state, as JSON: the sums of the logging window still open."""


class Corrupt(Exception):
    """A checkpoint that is not what was saved; the message says in what."""


class OtherModel(ConfigError):
    """A checkpoint whose arrays are not those of this run; the message names the first."""


class Record(NamedTuple):
    """What a checkpoint says of itself."""

    progress: Progress
    metrics: dict[str, float] | None
    """The evaluation's, if there was one."""
    digests: dict[str, str] | None
    """By the array's path; None from before there were any."""


class Content(NamedTuple):
    """A checkpoint on the host."""

    step: int
    record: Record
    arrays: dict[str, np.ndarray]
    """By path."""


def to_json(step: int, record: Record) -> dict[str, Any]:
    """A record as it is saved, with its checksum."""
    content = json.loads(json.dumps({"step": step, **record._asdict()}))
    return {"content": content, "sha256": _checksum(content)}


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> Record:
    """The record of the checkpoint in `folder`, whose name is its step.

    Raises:
      Corrupt: it cannot be read, or is not the one that was saved.
    """
    saved = _read_json(folder / "progress" / "metadata")
    if not {"content", "sha256"} & saved.keys():  # from before there were digests
        metrics = folder / "metrics" / "metrics"
        return Record(saved, _read_json(metrics) if metrics.exists() else None, None)
    content: Any = saved.get("content")
    if saved.get("sha256") != _checksum(content):
        raise Corrupt("progress/metadata: not what was saved, by its checksum")
    if str(content["step"]) != folder.name:
        raise Corrupt(f"it was saved as step {content['step']}")
    return Record(content["progress"], content["metrics"], content["digests"])


def _read_json(path: Path) -> dict[str, Any]:
    where = path.relative_to(path.parents[1])
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise Corrupt(f"{where}: {error.strerror}") from error
    except ValueError as error:
        raise Corrupt(f"{where}: not readable as JSON") from error
    if not isinstance(content, dict):
        raise Corrupt(f"{where}: not a record")
    return content


def read(folder: Path, state: Any = None) -> Content:
    """The checkpoint in `folder`, whose name is its step.

    Each process reads for itself: nothing here waits for another one.

    Args:
      state: a tree that it has to fit; None: any will do.

    Raises:
      Corrupt: something cannot be read, is missing, or is not what was saved.
      OtherModel: it does not fit, which is known before any array is read.
    """
    record = read_record(folder)
    digests = record.digests
    saved = {name: said.rsplit(" ", 1)[0] for name, said in (digests or {}).items()}
    if digests is not None:
        _check_model(folder, saved, state)
    try:
        stored = _open_arrays(folder / "state")
        there = {name: describe(array) for name, array in stored.items()}
        if digests is None:
            _check_model(folder, there, state)
        elif name := _first_difference(saved, there):
            raise Corrupt(f"state: {name} is {there.get(name, 'missing')}")
        reading = {name: array.read() for name, array in stored.items()}
        arrays = {name: np.asarray(future.result()) for name, future in reading.items()}
    except OtherModel:
        raise
    except (ValueError, OSError) as error:  # TensorStore's
        raise Corrupt(_said(folder, str(error))) from error
    for name, digest in (digests or {}).items():
        found = host_digest(arrays[name])
        if found != digest:
            raise Corrupt(f"state: {name} is not what was saved ({found}, not {digest})")
    return Content(int(folder.name), record, arrays)


_TENSORSTORE = re.compile(
    r'(?:"(?P<array>[^"]+)/[^"/]*" in [^"]*)?local file "(?P<file>[^"]*)"(?:: (?P<why>.*))?'
)
"""Error reading "params.head.kernel/0.0" in OCDBT database at local file "/.../60/state/": why"""


def _said(folder: Path, words: str) -> str:
    """What TensorStore says, in up to 3 kB: which file of the checkpoint, and what is wrong."""
    words = " ".join(words.split())
    found = _TENSORSTORE.search(words)
    if not found:
        return f"state: {textwrap.shorten(words, 300, placeholder=' ...')}"
    file = found["file"].removeprefix(f"{folder}/").rstrip("/")
    where = f"{file}, array {found['array']}" if found["array"] else file
    why = found["why"] or ("missing" if words.startswith("NOT_FOUND") else "cannot be read")
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
    """Orbax's arrays by path, not yet read: each is a Zarr array in TensorStore's OCDBT.

    Orbax would read them too, but wait for other processes, and print a traceback for whatever it
    cannot read.
    """
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    keys = [key.decode() for key in ts.KvStore.open(store).result().list().result()]
    names = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
    if not names:
        raise Corrupt("state/manifest.ocdbt: missing, or it names no arrays")
    opening = {
        name.replace(".", "/"): ts.open(
            {"driver": "zarr", "kvstore": {**store, "path": f"{name}/"}}, open=True, read=True
        )
        for name in names
    }
    return {name: future.result() for name, future in opening.items()}
