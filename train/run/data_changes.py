"""Changes of the data of a run, found when it is resumed or evaluated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from train.config import ConfigError, DataConfig, RunConfig
from train.config.effects import unused_by_folder
from train.config.serialize import with_versions
from train.data import file_list
from train.data.sources import Splits, open_splits
from train.data.sources.base import data_path, nfc
from train.data.sources.prepare_hint import NotPrepared
from train.run.directory import read_record
from train.run.parts import Run

_FILE_LISTS = ("csv", "folder")  # data sets whose files have names
_SPLIT_OPTIONS = ("train_split", "eval_split", "eval_fraction", "split_seed", "held_out", "listing")


def check_data(workdir: Path, run: Run) -> list[str]:
    """Compares the data of a resumed run with what config.json recorded when it began.

    Returns:
      Warnings about changed evaluation files, which do not affect the training.

    Raises:
      ConfigError: the classes or the training examples have changed; the message says how.
    """
    if not (workdir / "config.json").exists():
        return []
    began, splits, data = read_record(workdir), run.splits, run.config.data
    _check_same(workdir, "class_names", began, list(splits.train.class_names), data)
    files = began.get("files")
    if not files or not run.files:
        _check_same(workdir, "examples", began, splits.counts, data)
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
    if _plain(now) != _plain(began[name]):
        raise ConfigError(
            f"the data of {str(workdir)!r} have changed: its {name.replace('_', ' ')} were "
            f"{began[name]}, and {data.name} {data.dir or ''} now has {now}"
        )


def _plain(value: object) -> object:
    """A list of names in Unicode's NFC form; any other value unchanged."""
    return nfc(value) if isinstance(value, list) else value


def file_digests(run: Run) -> dict[str, str]:
    """Digests of the files of each split, which must be the same in all processes."""
    found = {split: run.files[split] for split in ("train", "eval")} if run.files else {}
    return {split: f"{f['count']:,} files, {f['sha256'][:12]}" for split, f in found.items()}


def open_eval_data(workdir: Path, config: RunConfig) -> tuple[Splits, list[str]]:
    """Opens the data to evaluate a run on.

    A folder that holds the run's data, moved or copied, is split as in training. Any other folder
    of class folders is evaluated whole; it may lack some classes.

    Returns:
      The splits, and warnings about them.

    Raises:
      ConfigError: see `open_splits`; or the classes of the data differ from the run's.
    """
    began, data = read_record(workdir), config.data
    if data.dir and ".." in Path(data.dir).parts:
        data = replace(data, dir=str(data_path(data)))
    if data.name != "npz" and data.eval_split != began["data"].get("eval_split"):
        data = replace(data, test_split="")  # perhaps the one that is evaluated now
    if _is_own(began, data):
        try:
            splits = open_splits(data)
        except NotPrepared as error:
            raise ConfigError(error.for_eval) from None
        notes = _changes(workdir, began, data, splits)
    else:
        splits, notes = _open_other(workdir, began, data)
    _check_same(workdir, "class_names", began, list(splits.train.class_names), data)
    unused = unused_by_folder(splits.unused, data, with_versions(began)["data"])
    return splits, [*unused, *notes, *splits.notes]


def _open_other(workdir: Path, began: dict[str, Any], data: DataConfig) -> tuple[Splits, list[str]]:
    """The splits of another folder than the run's, and notes about them."""
    own = _open_as_run(workdir, began, data)
    if own is not None:
        return own
    splits = open_splits(data, whole=True, class_names=began["class_names"])
    count = len(splits.eval)
    note = f"evaluating all {count:,} images of {data.dir}, which is not the run's folder"
    if began["data"]["name"] not in _FILE_LISTS:
        return splits, [note]
    if "files" not in began:
        return splits, [
            f"{note}. The run has no list of its training files, so some of these images may have "
            "been trained on"
        ]
    seen = file_list.overlap(workdir, began["files"], began["class_names"], splits)
    if not seen.names:
        return splits, [note]
    what = "were trained on" if seen.is_sure else "may have been trained on (same class and name)"
    return splits, [note, _seen(seen.names, splits, what)]


def _open_as_run(
    workdir: Path, began: dict[str, Any], data: DataConfig
) -> tuple[Splits, list[str]] | None:
    """The run's data in another folder, split as in training; None: the folder holds other data."""
    if began["data"]["name"] not in _FILE_LISTS:
        return None
    try:
        splits = open_splits(data)
    except ConfigError:  # another layout than the run's data
        return None
    if nfc(splits.train.class_names) != nfc(began["class_names"]):
        return None
    if "files" not in began:
        note = (
            f"{data.dir} holds the same number of images of the same classes as the run's folder: "
            "it is split as in training"
        )
        return (splits, [note]) if splits.counts == began["examples"] else None
    files, classes = began["files"], began["class_names"]
    everything = replace(splits, eval=splits.train)
    if not file_list.overlap(workdir, files, classes, everything).is_sure:
        return None
    if file_list.trained_on(workdir, splits) or not file_list.trained_on(workdir, splits, "train"):
        return None
    note = f"{data.dir} holds the run's data: it is split as in training"
    return splits, [note, *_changes(workdir, began, data, splits)]


def _is_own(began: dict[str, Any], data: DataConfig) -> bool:
    """Whether a config names the folder that the run was trained on; True for other sources."""
    if data.name not in _FILE_LISTS or not data.dir:
        return True
    if began["data"]["name"] != data.name:
        return False
    if data.dir == began["data"]["dir"]:
        return True
    listed = "files" in began and data.name == "folder"
    home = began["files"]["folder"] if listed else str(began["data"]["dir"])
    return file_list.same_folder(home, data.dir)


def _changes(workdir: Path, began: dict[str, Any], data: DataConfig, splits: Splits) -> list[str]:
    """Notes about changes in the run's data, and about evaluated images that were trained on."""
    files, now = began.get("files"), file_list.summary(splits)
    if not files or not now:
        count = splits.counts
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
    seen = file_list.trained_on(workdir, splits)
    return [*notes, _seen(seen, splits)] if seen else notes


def _seen(names: list[str], splits: Splits, what: str = "were trained on") -> str:
    count = f"{len(names):,} of {len(splits.eval):,}"
    return f"{count} evaluated images {what}: {file_list.shown(names)}"
