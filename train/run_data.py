"""The data of a run that is resumed or evaluated, compared with those that it began with."""

import contextlib
from pathlib import Path
from typing import Any

from train.config import ConfigError, DataConfig, RunConfig
from train.config_json import with_versions
from train.data import file_list
from train.data.sources import Splits, open_splits
from train.effects import unused_by_folder
from train.run import Run, read_record

_SPLIT_OPTIONS = ("train_split", "eval_split", "eval_fraction", "split_seed", "held_out")


def check_data(workdir: Path, run: Run) -> list[str]:
    """Compares the data of a run with those that the run in `workdir` began with, for a resume.

    Returns:
      Warnings: changes of the evaluation files, which do not concern the training.

    Raises:
      ConfigError: the classes or the training examples have changed; the message says how.
    """
    if not (workdir / "config.json").exists():
        return []
    began, splits, data = read_record(workdir), run.splits, run.config.data
    _check_same(workdir, "class_names", began, list(splits.train.class_names), data)
    files = began.get("files")
    if not files or not run.files:
        count = {"train": len(splits.train), "eval": len(splits.eval)}
        _check_same(workdir, "examples", began, count, data)
        return []
    if change := file_list.find_change(workdir, files, run.files, splits, "train"):
        raise ConfigError(
            f"the training files of {str(workdir)!r} have changed: {change}. A resume needs the "
            "same files: restore them, or start a new run in another --workdir (its weights may "
            f"start from this one: resnet-jax convert {workdir} FILE.safetensors, then "
            "--init.weights FILE.safetensors)"
        )
    change = file_list.find_change(workdir, files, run.files, splits, "eval")
    return [f"the evaluation files of {str(workdir)!r} have changed: {change}"] if change else []


def _check_same(
    workdir: Path, name: str, began: dict[str, Any], now: object, data: DataConfig
) -> None:
    if now != began[name]:
        raise ConfigError(
            f"the data of {str(workdir)!r} have changed: its {name.replace('_', ' ')} were "
            f"{began[name]}, and {data.name} {data.dir or ''} now has {now}"
        )


def file_digests(run: Run) -> dict[str, str]:
    """What all processes must read, or their parts of a batch would not fit together."""
    found = {split: run.files[split] for split in ("train", "eval")} if run.files else {}
    return {split: f"{f['count']:,} files, {f['sha256'][:12]}" for split, f in found.items()}


def open_eval_data(workdir: Path, config: RunConfig) -> tuple[Splits, list[str]]:
    """Opens the data to evaluate a run on.

    Another folder of class folders than the run's is evaluated whole, and may lack some classes. A
    copy of the run's own data, with the same names and contents, is split as the run's.

    Returns:
      The splits, and warnings about them.

    Raises:
      ConfigError: see `open_splits`; the data have other classes than the run's.
    """
    began, data = read_record(workdir), config.data
    notes = []
    if _is_own(began, data):
        splits = open_splits(data)
        notes = _changes(workdir, began, data, splits)
    elif (found := _open_copy(began, data)) is not None:
        splits = found
        notes = [f"{data.dir} holds the run's own data: it is split as in training"]
    else:
        splits = open_splits(data, whole=True, class_names=began["class_names"])
        count = len(splits.eval)
        notes = [f"evaluates {count:,} images of {data.dir}, another folder than the run's"]
        notes += _trained_on(workdir, began, splits, own=False)
    _check_same(workdir, "class_names", began, list(splits.train.class_names), data)
    unused = unused_by_folder(splits.unused, data, with_versions(began)["data"])
    return splits, [*unused, *notes, *splits.notes]


def _is_own(began: dict[str, Any], data: DataConfig) -> bool:
    """Whether a config names the folder that the run was trained on; True for other sources."""
    if data.name != "folder" or not data.dir:
        return True
    if began["data"]["name"] != "folder":
        return False
    if data.dir == began["data"]["dir"]:
        return True
    home = began["files"]["folder"] if "files" in began else str(began["data"]["dir"])
    return file_list.same_folder(home, data.dir)


def _open_copy(began: dict[str, Any], data: DataConfig) -> Splits | None:
    """The splits of the run's own data in another place; None if that is not what is there."""
    if "files" in began:
        with contextlib.suppress(ConfigError):
            splits = open_splits(data)
            if file_list.is_copy(began["files"], splits):
                return splits
    return None


def _changes(workdir: Path, began: dict[str, Any], data: DataConfig, splits: Splits) -> list[str]:
    """What has changed in the run's own data, and which images were trained on."""
    files, now = began.get("files"), file_list.summary(splits)
    if not files or not now:
        count = {"train": len(splits.train), "eval": len(splits.eval)}
        if data.name != "folder" or data.held_out == "by_name" or count == began["examples"]:
            return []
        return [
            f"the data of {str(workdir)!r} have changed: {began['examples']} then, {count} now. "
            "Its held-out share is drawn from the whole list (data.held_out by_place), so images "
            "that were trained on may be evaluated"
        ]
    notes = []
    options = with_versions(began)["data"]
    if all(getattr(data, name) == options[name] for name in _SPLIT_OPTIONS):
        for split, what in (("train", "training"), ("eval", "evaluation")):
            if change := file_list.find_change(workdir, files, now, splits, split):
                notes.append(f"the {what} files of {str(workdir)!r} have changed: {change}")
    return notes + _trained_on(workdir, began, splits, own=True)


def _trained_on(workdir: Path, began: dict[str, Any], splits: Splits, *, own: bool) -> list[str]:
    files = began.get("files")
    seen = file_list.trained_on(workdir, files, splits, own=own) if files else []
    if not seen:
        return []
    count = f"{len(seen):,} of {len(splits.eval):,}"
    return [f"{count} evaluated images were trained on: {file_list.shown(seen)}"]
