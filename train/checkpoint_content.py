"""One checkpoint as one process reads it: on the host, and believed only if it is whole.

Beside the arrays, a checkpoint holds a record: its step, the progress, the metrics, and what
`train.digests` said of every array when it was saved. The record has a checksum of its own. So a
bit that flipped anywhere between the device and here is found: in the arrays, in their names and
shapes, in the progress.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

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
      OtherModel: it does not fit; if it has digests, this is known before any array is read.
    """
    record = read_record(folder)
    if record.digests is not None:
        _check_model(folder, {k: v.rsplit(" ", 1)[0] for k, v in record.digests.items()}, state)
    arrays = _read_arrays(folder, record)
    _check_model(folder, {name: describe(array) for name, array in arrays.items()}, state)
    return Content(int(folder.name), record, arrays)


def _check_model(folder: Path, saved: dict[str, str], state: Any) -> None:
    wanted = {name: describe(leaf) for name, leaf in named(state).items()}
    for name in [*wanted, *saved] if state is not None else []:
        if wanted.get(name) != saved.get(name):
            raise OtherModel(
                f"{folder} is a checkpoint of another model: {name} is {saved.get(name, 'missing')}"
                f" there and {wanted.get(name, 'missing')} in this run"
            )


def _read_arrays(folder: Path, record: Record) -> dict[str, np.ndarray]:
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    try:
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
            tree = reader.metadata(folder / "state").item_metadata.tree
            if record.digests is not None:
                _check_names(named(tree), record.digests)
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            request = ocp.args.PyTreeRestore(restore_args=as_numpy)
            arrays = named(reader.restore(folder / "state", args=request))
    except Corrupt:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for what is damaged
        said = " ".join(str(error).split())[:200]
        raise Corrupt(f"state: {type(error).__name__}: {said}") from error
    for name, digest in (record.digests or {}).items():
        found = host_digest(arrays[name])
        if found != digest:
            raise Corrupt(f"state: {name} is not what was saved ({found}, not {digest})")
    return arrays


def _check_names(found: dict[str, Any], saved: dict[str, str]) -> None:
    for name in [*saved, *found]:
        if name not in found or name not in saved:
            what = "is missing" if name in saved else "was not saved"
            raise Corrupt(f"state: {name} {what}")
