"""Whether a run may start in a directory, and what a resumed run records there."""

import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from train.config import ConfigError, RunConfig
from train.config.serialize import differences, flatten, keep_versions, to_json
from train.run.directory import (
    is_empty,
    newest_checkpoint,
    read_config,
    read_record,
    resumes,
    write_record,
)
from train.run.parts import Run
from train.run.provenance import code_version, provenance, versions
from train.run.time_budget import keep_steps

EXTENDABLE = ("duration", "log_every", "patience", "eval.", "checkpoint.")
"""Options that `--extend` may change."""


_RUN_FILES = {
    *("anomaly.json", "checkpoints", "config.json", "files.json.gz", "lock"),
    *("metrics.jsonl", "preprocessing.npz", "report", "tensorboard"),
}
"""Files that a run writes into its directory."""

_HARMLESS = (".tmp", ".log", ".out", ".err")
"""Suffixes of unfinished files of a run, and of logs that a batch system writes."""


def resumed_config(workdir: Path, config: RunConfig, given: Collection[str] = ()) -> RunConfig:
    """`config` with what the run in `workdir` recorded when it began.

    These are the versions of rules (shuffle, held-out share), except those in `given`, which
    stay, and make it another run if they differ; the number that `norm_group_size` "device" was
    then; the numbers that `data.mean` "measure" gave; and the number of steps that a duration in
    hours was.
    """
    if is_empty(workdir) or not (workdir / "config.json").is_file():
        return config
    began = read_config(workdir)
    config = keep_steps(workdir, config, began)
    config = keep_versions(began, config, given)
    if config.norm_group_size == "device" and config.batch_size == began.batch_size:
        config = replace(config, norm_group_size=began.norm_group_size or "device")
    return _with_measured(workdir, began, config)


def _with_measured(workdir: Path, began: RunConfig, config: RunConfig) -> RunConfig:
    """`config` with the mean, and the standard deviation, that the run `began` measured."""
    data, then = config.data, began.data
    if data.mean != "measure" or not read_record(workdir).get("measured"):
        return config
    std = then.std if data.centres_only == then.centres_only else data.std
    return replace(config, data=replace(data, mean=then.mean, std=std))


def check_workdir(workdir: Path, config: RunConfig, *, extend: bool = False) -> str | None:
    """Checks that a run with this config may start in a directory.

    Args:
      extend: options in `EXTENDABLE` may differ from those of the run in `workdir`.

    Returns:
      A line for the user, if an old config.json is replaced.

    Raises:
      ConfigError: `workdir` holds another run (the message gives the differences), or other files;
        or `extend`, and there is no checkpoint.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"workdir {str(workdir)!r}: is a file")
    if extend and not resumes(workdir):
        raise ConfigError(f"--extend: {str(workdir)!r} has no checkpoint to continue from")
    has_config = (workdir / "config.json").exists()
    if is_empty(workdir):
        if not has_config:
            _check_no_other_files(workdir)
        return _replaced(workdir, config) if has_config else None
    if not has_config:
        raise ConfigError(f"workdir {str(workdir)!r}: holds checkpoints but no config.json")
    changed = differences(read_config(workdir), config)
    fixed = [line for line in changed if not line.startswith(EXTENDABLE)]
    if fixed and extend:
        raise ConfigError(
            f"--extend cannot change {'; '.join(fixed)}. It can change duration, eval.*, "
            "checkpoint.*, patience and log_every; for the rest, choose another --workdir"
        )
    if changed and not extend:
        lines = "\n  ".join(changed)
        more = "" if fixed else ". To continue with the new ones, add --extend"
        raise ConfigError(
            f"workdir {str(workdir)!r} holds another run; choose another --workdir, or the same "
            f"options{more}. Differences (in the directory -> now):\n  {lines}"
        )
    return None


def _check_no_other_files(workdir: Path) -> None:
    """Raises `ConfigError` if a directory without config.json holds files of another kind."""
    names = sorted(path.name for path in workdir.iterdir()) if workdir.is_dir() else []
    others = [name for name in names if not _may_be_in_a_new_workdir(name)]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ConfigError(
            f"workdir {str(workdir)!r} is not a run directory and not empty: it holds "
            f"{', '.join(map(repr, others[:3]))}{more}. Choose a new or empty folder as --workdir"
        )


def _may_be_in_a_new_workdir(name: str) -> bool:
    """Files of a run, logs of a batch system, and hidden files."""
    return name in _RUN_FILES or name.startswith(".") or name.endswith(_HARMLESS)


def _replaced(workdir: Path, config: RunConfig) -> str | None:
    try:
        began = read_config(workdir)
        same = not differences(began, _with_measured(workdir, began, config))
    except ConfigError:
        same = False
    if same:
        return None
    return (
        f"{workdir} holds the options of a run without a checkpoint; the new options replace them"
    )


def check_duration(workdir: Path, run: Run) -> None:
    """Raises `ConfigError` if the run would end before its newest checkpoint."""
    newest = newest_checkpoint(workdir)
    if newest is not None and run.total_steps < newest:
        raise ConfigError(
            f"duration {run.config.duration!r} is {run.total_steps} steps, and {str(workdir)!r} "
            f"has a checkpoint of step {newest}: choose a longer one"
        )


def describe_other_version(workdir: Path) -> str | None:
    """A line for the user if another version of resnet-jax trained the run so far; else None."""
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
        f"this run was trained so far by resnet-jax {was}; this is {this}: the batches are the "
        "same, but results may differ by rounding"
    )


def _named_version(version: str | None, commit: str | None) -> str:
    """ "0.1.0 (commit 1a2b3c4d5e)"; with a "+" if files were changed since the commit."""
    known = f"{commit[:10]}{'+' * commit.endswith('+')}" if commit else "unknown"
    return f"{version or 'of unknown version'} (commit {known})"


def describe_extension(workdir: Path, run: Run, step: int) -> str | None:
    """A line about the options that change from `step` on; None: none."""
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
            f"{now:.4g} at the next step, instead of {before:.4g}"
        )
        if run.mix_until is not None:
            text += f". mix.off: examples are mixed up to step {run.mix_until}"
    return text


def record_segments(workdir: Path, run: Run, step: int) -> None:
    """Updates config.json when a run continues after `step`.

    Its options become the current ones. If `--extend` changed some, "segments" records the step
    from which each value applies, and the provenance of that part of the run.
    """
    content = read_record(workdir)
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
        write_record(workdir, {**content, "segments": segments})


def _merged(segments: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """Segments of a run that continues after `step`: later segments, not trained, begin there."""
    past = [segment for segment in segments if segment["from_step"] < step]
    ahead = segments[len(past) :]
    if not ahead:
        return past
    options = {name: value for each in ahead for name, value in each["options"].items()}
    return [*past, {**ahead[-1], "from_step": step, "options": options}]
