"""Where in a folder of photos the splits and the classes are."""

import re
from pathlib import Path
from typing import NamedTuple

from train.config import ConfigError, DataConfig
from train.data.sources.base import listed
from train.data.sources.listing import Skipped, image_files, subfolders

# Spellings of the same split. Validation and test are two splits: neither stands in for the other.
_SPELLINGS = (
    ("train", "training"),
    ("val", "valid", "validation", "dev"),
    ("test", "testing"),
)
_WORDS = frozenset(word for spellings in _SPELLINGS for word in spellings)
# "training_set", "val2017", "test-images"
_LIKE_A_SPLIT = re.compile(f"({'|'.join(sorted(_WORDS, reverse=True))})(set|data|[^a-z].*)?")


class Layout(NamedTuple):
    """Two folders of class folders; without `eval`, a share of `train` is held out."""

    train: Path
    eval: Path | None
    notes: tuple[str, ...] = ()


def find_layout(root: Path, config: DataConfig, *, whole: bool) -> Layout:
    """Finds the splits in the folder of a data set.

    `config.train_split` and `config.eval_split` are names of folders, or other spellings of them
    ("Train", "training"; "valid", "validation").

    Args:
      whole: the folder is only evaluated, so a training split is not needed.

    Raises:
      ConfigError: what is there is neither two splits nor classes; the message says how to go on.
      OSError: the folder cannot be listed.
    """
    folders = subfolders(root)
    train = _find(root, folders, config.train_split, "data.train_split")
    evaluation = _find(root, folders, config.eval_split, "data.eval_split")
    if whole and evaluation:
        return Layout(evaluation, evaluation)
    if train and evaluation:
        exact = (train, evaluation) == (root / config.train_split, root / config.eval_split)
        note = f"{root}: trains on {train.name!r} and evaluates on {evaluation.name!r}"
        return Layout(train, evaluation, () if exact else (note,))
    if (train or evaluation) and not _is_class_among(folders, train or evaluation):
        raise ConfigError(_one_split_only(root, folders, config, train))
    _refuse_splits_as_classes(root, folders)
    return Layout(root, None)


def _find(root: Path, folders: list[Path], name: str, option: str) -> Path | None:
    if (root / name).is_dir():
        return root / name
    spellings = next((s for s in _SPELLINGS if name.lower() in s), (name.lower(),))
    found = [folder for folder in folders if folder.name.lower() in spellings]
    if len(found) > 1:
        names = listed([folder.name for folder in found])
        raise ConfigError(
            f"{root}: {option} {name!r} may mean {names}; choose one: --{option} NAME"
        )
    return found[0] if found else None


def _is_class_among(folders: list[Path], one: Path | None) -> bool:
    """Whether a folder with a split's name is a class, as "train" is beside "car" and "bus"."""
    others = [folder for folder in folders if folder.name.lower() not in _WORDS]
    return one is not None and len(others) > 1 and not subfolders(one)


def _one_split_only(root: Path, folders: list[Path], config: DataConfig, train: Path | None) -> str:
    names = [folder.name for folder in folders]
    if train is None:
        return (
            f"{root}: has {config.eval_split!r} but no {config.train_split!r} folder; it holds "
            f"{listed(names)}. Name the folder to train on: --data.train_split NAME"
        )
    start = f"{root}: has {train.name!r} but no {config.eval_split!r} folder"
    others = [f for f in folders if f != train and _LIKE_A_SPLIT.fullmatch(f.name.lower())]
    if others:
        return f"{start}; it holds {listed(names)}. Try --data.eval_split {others[0].name}"
    return f"{start}. To hold out a share of {train.name!r} instead: --data.dir {train}"


def _refuse_splits_as_classes(root: Path, folders: list[Path]) -> None:
    alike = [folder for folder in folders if _LIKE_A_SPLIT.fullmatch(folder.name.lower())]
    nested = [folder for folder in alike if subfolders(folder)]
    names = [folder.name for folder in alike]
    if len(nested) > 1:
        first = next((f for f in nested if f.name.lower().startswith("train")), nested[0])
        second = next(f for f in reversed(nested) if f != first)
        raise ConfigError(
            f"{root}: {listed(names)} look like splits, not like classes; name them: "
            f"--data.train_split {first.name} --data.eval_split {second.name}"
        )
    if folders and all(folder.name.lower() in _WORDS for folder in folders):
        raise ConfigError(
            f"{root}: {listed(names)} are names of splits, and they hold no class folders; needs "
            f"{folders[0]}/CLASS/*.jpg"
        )


def one_class(folder: Path, name: str) -> ConfigError:
    """The error for a folder with a single class: often, the classes are one level deeper."""
    inner = folder / name
    below = [p for p in subfolders(inner) if image_files(p)]
    while len(below) == 1 and not _has_images(inner):
        inner, below = below[0], [p for p in subfolders(below[0]) if image_files(p)]
    if len(below) > 1 and not _has_images(inner):
        names = listed([p.name for p in below])
        if folder.name.lower() in _WORDS:
            fix = f"move the folders of {inner} into {folder}"
        else:
            fix = f"--data.dir {inner}"
        return ConfigError(
            f"{folder}: the classes are one level too deep, in {inner} ({names}): {fix}"
        )
    return ConfigError(
        f"{folder}: holds one class only, {name!r}. A network needs at least two classes: with "
        f"one, every answer is right. Needs {folder}/CLASS/*.jpg for each class"
    )


def _has_images(folder: Path) -> bool:
    """Whether images lie in the folder itself."""
    outside = Skipped()
    subfolders(folder, outside)
    return outside.count("outside of the class folders") > 0
