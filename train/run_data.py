"""The data of a run that goes on or is evaluated, compared with those that it began with."""

import contextlib
from pathlib import Path
from typing import Any

from train.config import ConfigError, RunConfig
from train.data import file_list
from train.data.sources import Splits, open_splits
from train.run import Run, read_record


def check_data(workdir: Path, run: Run, *, resumes: bool) -> list[str]:
    """Compares the data with those that the run in `workdir` began with.

    Args:
      resumes: the training examples must be the same; else only the classes must.

    Returns:
      Warnings: what else has changed.

    Raises:
      ConfigError: the data are no longer those of the run; the message says what changed.
    """
    if not (workdir / "config.json").exists():
        return []
    began, splits, data = read_record(workdir), run.splits, run.config.data
    files = began.get("files")
    now: dict[str, Any] = {
        "class_names": list(splits.train.class_names),
        "examples": {"train": len(splits.train), "eval": len(splits.eval)},
    }
    files = files if data.name == "folder" else None
    for name in ("class_names", "examples") if resumes and not files else ("class_names",):
        if now[name] != began[name]:
            what = name.replace("_", " ")
            raise ConfigError(
                f"the data of {str(workdir)!r} have changed: its {what} were {began[name]}, and "
                f"{data.name} {data.dir or ''} now has {now[name]}"
            )
    if files:
        return _compare_files(workdir, files, splits, resumes=resumes)
    if data.held_out == "by_place" and now["examples"] != began["examples"]:
        return [
            f"the data of {str(workdir)!r} have changed: {began['examples']} then, "
            f"{now['examples']} now. Its held-out share is drawn from the whole list "
            "(data.held_out by_place), so images that were trained on may be evaluated"
        ]
    return []


def _compare_files(
    workdir: Path, files: dict[str, Any], splits: Splits, *, resumes: bool
) -> list[str]:
    if resumes and (change := file_list.find_change(workdir, files, splits, "train")):
        raise ConfigError(
            f"the training files of {str(workdir)!r} have changed: {change}. A resume needs the "
            "same files: restore them, or start a new run in another --workdir (its weights may "
            f"start from this one: resnet-jax convert {workdir} FILE.safetensors, then "
            "--init.weights FILE.safetensors)"
        )
    notes = []
    if change := file_list.find_change(workdir, files, splits, "eval"):
        notes.append(f"the evaluation files of {str(workdir)!r} have changed: {change}")
    if not resumes and (seen := file_list.trained_on(workdir, splits)):
        names = file_list.shown(seen)
        notes.append(
            f"{len(seen):,} of the {len(splits.eval):,} evaluated images were trained on: {names}"
        )
    return notes


def open_eval_data(workdir: Path, config: RunConfig) -> tuple[Splits, list[str]]:
    """The data to evaluate a run on, and notes about them.

    Another folder of class folders than the run's is evaluated whole, and may lack some classes. A
    copy of the run's own data, with the same names and contents, is split as the run's.

    Raises:
      ConfigError: as `open_splits`; data of other classes than the run's.
    """
    began, data = read_record(workdir), config.data
    own = data.name == began["data"]["name"] and data.dir == began["data"]["dir"]
    if data.name != "folder" or not data.dir or own:
        return open_splits(data), []
    files = began.get("files")
    home = files["folder"] if files else began["data"]["dir"]
    if home is not None and began["data"]["name"] == "folder":
        if file_list.same_folder(home, data.dir):
            return open_splits(data), []
        with contextlib.suppress(ConfigError):
            splits = open_splits(data)
            if files and file_list.is_copy(files, splits):
                return splits, [f"{data.dir} holds the run's own data: split as in training"]
    splits = open_splits(data, whole=True, class_names=began["class_names"])
    count = len(splits.eval)
    return splits, [f"evaluates {count:,} images of {data.dir}, another folder than the run's"]
