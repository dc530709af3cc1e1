"""The directory of a run: its checkpoints, and config.json with all that reproduces it."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.config import ConfigError, RunConfig
from train.config.serialize import from_json, to_json, unknown_fields, with_versions
from train.data import file_list
from train.run.provenance import provenance, versions

if TYPE_CHECKING:  # reading a config imports no JAX
    from train.run.parts import Run

_EXTRAS = (
    "versions",
    "commit",
    "command",
    "devices",
    "class_names",
    "class_weights",
    "examples",
    "files",
    "measured",
    "parameters",
    "segments",
    "time_budget",
)
"""Entries of config.json that are not options."""


def newest_checkpoint(workdir: Path) -> int | None:
    """The step of the newest folder that looks like a checkpoint; None: no such folder."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=None)


def resumes(workdir: Path) -> bool:
    """Whether a folder looks like a checkpoint."""
    return newest_checkpoint(workdir) is not None


def is_empty(workdir: Path) -> bool:
    """Whether a directory holds no result: no checkpoint, not even a damaged one, and no report.

    A failed start (no memory, a bad option) leaves config.json, and a run that was killed early
    leaves some rows of metrics. A report without checkpoints is from a finished run.
    """
    damaged = any((workdir / "checkpoints").glob("*.corrupt*"))
    return not (resumes(workdir) or damaged or (workdir / "report" / "index.html").exists())


def read_config(workdir: Path) -> RunConfig:
    """The config of the run in a directory.

    Raises:
      ConfigError: `workdir` is not a run directory, or its config.json cannot be read.
    """
    path = workdir / "config.json"
    record = read_record(workdir)
    options = {key: value for key, value in record.items() if key not in _EXTRAS}
    if unknown := unknown_fields(options):
        fields = ", ".join(f"{name} ({value!r})" for name, value in unknown.items())
        wrote = (record.get("versions") or {}).get("resnet-jax", "unknown")
        here = f"this version of resnet-jax ({versions()['resnet-jax']})"
        raise ConfigError(
            f"{path}: {here} does not know {fields}; version {wrote} wrote the file. Install that "
            "version, or delete the unknown options from the file"
        )
    try:
        return from_json(with_versions(options))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_class_names(workdir: Path) -> list[str]:
    """The names of the run's classes, by label. Raises `ConfigError` as `read_config` does."""
    return list(read_record(workdir)["class_names"])


def read_class_weights(workdir: Path) -> list[float] | None:
    """The weights that were computed for `loss.class_weights`; None: there are none.

    Raises `ConfigError` as `read_record` does.
    """
    return read_record(workdir).get("class_weights")


def read_record(workdir: Path) -> dict[str, Any]:
    """All of config.json: the options, and what was recorded when the run began.

    Raises:
      ConfigError: `workdir` is not a run directory, or its config.json is not a JSON object.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise ConfigError(f"{str(workdir)!r} is not a run directory: it has no config.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: needs an object of options, not {str(content)[:40]!r}")
    if "architecture" in content:
        raise ConfigError(
            f"{str(workdir)!r} is a folder of timm weights, not a run directory: name the file in "
            f"it, {workdir / 'model.safetensors'}"
        )
    return content


def write_config(workdir: Path, run: "Run", parameters: int) -> None:
    """Writes config.json: the options, and what else reproduces the run.

    Args:
      parameters: of the network, counted.
    """
    extras: dict[str, Any] = {
        "parameters": parameters,
        **provenance(),
        "examples": run.splits.counts,
        "class_names": list(run.splits.train.class_names),
    }
    if isinstance(run.config.loss.class_weights, str) and run.class_weights:
        extras["class_weights"] = run.class_weights
    if run.time_budget:
        extras["time_budget"] = run.time_budget
    if run.files:
        extras["files"] = run.files
        file_list.write_names(workdir, run.splits)
    if run.measured:
        extras["measured"] = run.measured
    options = to_json(run.config)
    options["data"].update(run.splits.chosen)
    write_record(workdir, {**options, **extras})


def write_record(workdir: Path, record: dict[str, Any]) -> None:
    """Replaces config.json as a whole: a reader sees the old file or the new one."""
    temporary = workdir / "config.tmp"
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, workdir / "config.json")
