"""What a run's directory holds when a training starts there: nothing, this run, or another one."""

import json
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from train.config import ConfigError, RunConfig
from train.config.serialize import differences, flatten, keep_versions, to_json
from train.run.parts import Run, provenance, read_config, read_record
from train.run.provenance import code_version, versions

EXTENDABLE = ("duration", "log_every", "eval.", "checkpoint.")
"""Options that `--extend` may change: how long, and what is measured and kept on the way."""


_RUN_FILES = {
    *("anomaly.json", "checkpoints", "config.json", "files.json.gz", "lock"),
    *("metrics.jsonl", "report", "tensorboard"),
}
"""What a run writes into its directory."""

_HARMLESS = (".tmp", ".log", ".out", ".err")
"""Ends of names: unfinished files of a run, and logs that a batch system writes there."""


def newest_checkpoint(workdir: Path) -> int | None:
    """The step of the newest folder that looks like a checkpoint; None: there is none."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=None)


def resumes(workdir: Path) -> bool:
    """Whether there is what looks like a checkpoint."""
    return newest_checkpoint(workdir) is not None


def is_empty(workdir: Path) -> bool:
    """Whether nothing in a directory is worth keeping.

    A start that failed (no memory, a bad option) leaves config.json, a run that was killed early a
    few rows of metrics. A report is that of a finished run whose checkpoints somebody deleted.
    """
    damaged = any((workdir / "checkpoints").glob("*.corrupt*"))
    return not (resumes(workdir) or damaged or (workdir / "report" / "index.html").exists())


def resumed_config(workdir: Path, config: RunConfig, given: Collection[str] = ()) -> RunConfig:
    """`config` with the versions of rules (shuffle, held-out share) that `workdir` began with.

    Those that are `given` by name stay as they are, and make it another run if they differ.
    """
    if is_empty(workdir) or not (workdir / "config.json").is_file():
        return config
    return keep_versions(read_config(workdir), config, given)


def check_workdir(workdir: Path, config: RunConfig, *, extend: bool = False) -> str | None:
    """Whether a training with this config may start in a directory.

    Args:
      extend: options in `EXTENDABLE` may differ from those of the run that is there.

    Returns:
      A line for the user, if something there is replaced.

    Raises:
      ConfigError: it holds another run, and what differs; or nothing that `extend` could extend.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"workdir {str(workdir)!r}: is a file")
    if extend and not resumes(workdir):
        raise ConfigError(f"--extend: {str(workdir)!r} has no checkpoint to go on from")
    there = (workdir / "config.json").exists()
    if is_empty(workdir):
        if not there:
            _check_no_other_files(workdir)
        return _replaced(workdir, config) if there else None
    if not there:
        raise ConfigError(f"workdir {str(workdir)!r}: holds checkpoints but no config.json")
    changed = differences(read_config(workdir), config)
    fixed = [line for line in changed if not line.startswith(EXTENDABLE)]
    if fixed and extend:
        raise ConfigError(
            f"--extend cannot change {'; '.join(fixed)}. It can change duration, eval.*, "
            "checkpoint.* and log_every; for the rest, choose another --workdir"
        )
    if changed and not extend:
        lines = "\n  ".join(changed)
        more = "" if fixed else ". To go on with the new ones, add --extend"
        raise ConfigError(
            f"workdir {str(workdir)!r} holds another run; choose another --workdir, or the same "
            f"options{more}. What differs (there -> now):\n  {lines}"
        )
    return None


def _check_no_other_files(workdir: Path) -> None:
    """Raises `ConfigError` if a directory without config.json holds files that are no run's."""
    names = sorted(path.name for path in workdir.iterdir()) if workdir.is_dir() else []
    others = [name for name in names if not _may_be_in_a_new_workdir(name)]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ConfigError(
            f"workdir {str(workdir)!r} is not a run directory and not empty: it holds "
            f"{', '.join(map(repr, others[:3]))}{more}. Choose a new or empty folder as --workdir"
        )


def _may_be_in_a_new_workdir(name: str) -> bool:
    """Files of a run, of a batch system that logs there, and hidden ones."""
    return name in _RUN_FILES or name.startswith(".") or name.endswith(_HARMLESS)


def _replaced(workdir: Path, config: RunConfig) -> str | None:
    try:
        same = not differences(read_config(workdir), config)
    except ConfigError:
        same = False
    if same:
        return None
    return (
        f"{workdir} holds the options of a run without a checkpoint: they are replaced by the "
        "present ones"
    )


def check_duration(workdir: Path, run: Run) -> None:
    """Raises `ConfigError` for a duration that ends before the newest checkpoint."""
    newest = newest_checkpoint(workdir)
    if newest is not None and run.total_steps < newest:
        raise ConfigError(
            f"duration {run.config.duration!r} is {run.total_steps} steps, and {str(workdir)!r} "
            f"has a checkpoint of step {newest}: choose a longer one"
        )


def describe_other_version(workdir: Path) -> str | None:
    """A line for the user if another version of this program trained the run so far; else None."""
    if not resumes(workdir):
        return None
    record = read_record(workdir)
    past = (record.get("segments") or [record])[-1]
    before = (past.get("versions") or {}).get("resnet-jax"), past.get("commit")
    now = versions()["resnet-jax"], code_version()
    if not any(a and b and a != b for a, b in zip(before, now, strict=True)):
        return None
    was, this = (_named_version(*each) for each in (before, now))
    return (
        f"this run was trained so far by resnet-jax {was}; this is {this}: its batches are the "
        "same, results may differ in rounding"
    )


def _named_version(version: str | None, commit: str | None) -> str:
    """ "0.1.0 (commit 1a2b3c4d5e)"; a "+" behind it means files that differ from the commit."""
    known = f"{commit[:10]}{'+' * commit.endswith('+')}" if commit else "unknown"
    return f"{version or 'of unknown version'} (commit {known})"


def describe_extension(workdir: Path, run: Run, step: int) -> str | None:
    """What is new from `step` on, for the user; None: nothing."""
    began = read_config(workdir)
    changed = differences(began, run.config)
    if not changed:
        return None
    text = f"extended from step {step} on: {'; '.join(changed)}"
    if any(line.startswith("eval.") for line in changed):
        text += ". Earlier evaluations were made with the old options"
    old = Run(began, mesh=run.mesh, splits=run.splits)
    if old.total_steps != run.total_steps and step < run.total_steps:
        before, now = (float(each.schedule(step)) for each in (old, run))
        text += (
            f". The learning rate follows the schedule of {run.config.duration}: "
            f"{now:.4g} at the next step, where that of {began.duration} has {before:.4g}"
        )
    return text


def record_segments(workdir: Path, run: Run, step: int) -> None:
    """Brings config.json up to date when a run goes on from `step`.

    The options in it are those of now. Where some were changed by `--extend`, "segments" says from
    which step on each value held, and what that part of the run was computed on.
    """
    path = workdir / "config.json"
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    segments = before = content.get("segments", [])
    began = read_config(workdir)
    names = [line.partition(":")[0] for line in differences(began, run.config)]
    old, new = flatten(to_json(began)), flatten(to_json(run.config))
    if names:
        origin = {key: content.get(key) for key in ("versions", "commit", "devices")}
        first, *later = segments or [{"from_step": 0, "options": {}, **origin}]
        first = {**first, "options": {**{n: old.get(n) for n in names}, **first["options"]}}
        options = {name: new.get(name) for name in names}
        date = time.strftime("%Y-%m-%d %H:%M:%S %z")
        latest = {"from_step": step, "options": options, "date": date, **provenance()}
        segments = [first, *later, latest]
    segments = _merged(segments, step)
    if segments != before:
        for name in names:
            section, _, leaf = name.rpartition(".")
            (content[section] if section else content)[leaf] = new[name]
        content["segments"] = segments
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)


def _merged(segments: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """Segments of a run that goes on from `step`: what should have begun later begins there."""
    past = [segment for segment in segments if segment["from_step"] < step]
    ahead = segments[len(past) :]
    if not ahead:
        return past
    options = {name: value for each in ahead for name, value in each["options"].items()}
    return [*past, {**ahead[-1], "from_step": step, "options": options}]
