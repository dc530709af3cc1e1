"""The layout of a folder of photos: finds its splits and classes, and explains what is wrong."""

import re
from pathlib import Path
from typing import NamedTuple

from train.config import ConfigError, DataConfig
from train.data.sources.base import listed
from train.data.sources.listing import Skipped, image_files, subfolders

# Equivalent names of a split. Validation and test are different splits: neither replaces the other.
_SPELLINGS = (
    ("train", "training"),
    ("val", "valid", "validation", "dev"),
    ("test", "testing"),
)
_WORDS = frozenset(word for spellings in _SPELLINGS for word in spellings)
# "training_set", "val2017", "test-images"
_LIKE_A_SPLIT = re.compile(f"({'|'.join(sorted(_WORDS, reverse=True))})(set|data|[^a-z].*)?")

_NO_CLASSES = ("labels", "annotations", "masks")


class Layout(NamedTuple):
    """The folders of the splits; if `eval` is None, a share of `train` is held out."""

    train: Path
    eval: Path | None
    notes: tuple[str, ...] = ()
    test: Path | None = None


def find_layout(root: Path, config: DataConfig, *, whole: bool) -> Layout:
    """Finds the splits in the folder of a data set.

    `config.train_split` and `config.eval_split` are names of folders; equivalent names are accepted
    ("Train", "training"; "valid", "validation").

    Args:
      whole: the folder is only evaluated, so no training split is needed.

    Raises:
      ConfigError: the folder has neither two splits nor classes; the message has the fix.
      OSError: the folder cannot be listed.
    """
    folders = subfolders(root)
    train = _find(root, folders, config.train_split, "data.train_split")
    evaluation = _find(root, folders, config.eval_split, "data.eval_split")
    if whole and evaluation and not _is_class_among(folders, evaluation):
        return Layout(evaluation, evaluation)
    test = None if whole else _find_test(root, folders, config, evaluation)
    if train and test and not evaluation:
        held_out = f"{root}: evaluates on a share of {train.name!r}, tests on {test.name!r}"
        return Layout(train, None, (held_out,), test)
    if train and evaluation:
        exact = (train, evaluation) == (root / config.train_split, root / config.eval_split)
        note = f"{root}: trains on {train.name!r} and evaluates on {evaluation.name!r}"
        return Layout(train, evaluation, () if exact else (note,), test)
    only = train or evaluation
    if only and not _is_class_among(folders, only):
        raise ConfigError(_one_split_only(root, folders, config, train, evaluation))
    _refuse_splits_as_classes(root, folders)
    note = f"{root}: {only.name!r} is read as a class, not as a split" if only else ""
    return Layout(root, None, (note,) if note else ())


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


def _find_test(
    root: Path, folders: list[Path], config: DataConfig, evaluation: Path | None
) -> Path | None:
    """The folder of `data.test_split`; None: it is ""."""
    if not config.test_split:
        return None
    test = _find(root, folders, config.test_split, "data.test_split")
    if test is None:
        raise ConfigError(
            f"{root}: has no folder for data.test_split {config.test_split!r}; it holds "
            f"{listed([folder.name for folder in folders])}"
        )
    if test == evaluation:
        raise ConfigError(
            f"{root}: data.eval_split {config.eval_split!r} and data.test_split "
            f"{config.test_split!r} are the same folder, {test.name!r}"
        )
    return test


def _is_class_among(folders: list[Path], folder: Path) -> bool:
    """Whether a folder named like a split is a class, such as "train" next to "car" and "bus"."""
    others = [other for other in folders if other != folder]
    if not others or any(_LIKE_A_SPLIT.fullmatch(other.name.lower()) for other in others):
        return False
    return _has_images(folder) and not subfolders(folder)


def _one_split_only(
    root: Path, folders: list[Path], config: DataConfig, train: Path | None, val: Path | None
) -> str:
    names = listed([folder.name for folder in folders])
    if train is None:
        assert val is not None
        found = _found(val, config.eval_split)
        return (
            f"{root}: {found} but no {config.train_split!r} folder; it holds {names}. Name the "
            f"folder to train on: --data.train_split NAME. If {val.name!r} is a class, rename it"
        )
    start = f"{root}: {_found(train, config.train_split)} but no {config.eval_split!r} folder"
    others = [f for f in folders if f != train and _LIKE_A_SPLIT.fullmatch(f.name.lower())]
    if others:
        return f"{start}; it holds {names}. Try --data.eval_split {others[0].name}"
    end = f"To hold out a share of {train.name!r} instead: --data.dir {train}"
    if len(folders) == 1:
        return f"{start}. {end}"
    return f"{start}; it holds {names}. If {train.name!r} is a class, rename it. {end}"


def _found(folder: Path, split: str) -> str:
    if folder.name == split:
        return f"has {split!r}"
    return f"has {folder.name!r}, which looks like the split {split!r},"


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


def refuse_shared_subfolders(folder: Path, classes: list[Path]) -> None:
    """Refuses class folders that have no images, but all have the same two or more subfolders.

    Those are probably copies of one set of classes: images and masks, folds, or splits with unknown
    names. A single common subfolder, as in CLASS/images, is part of the class.

    Raises:
      ConfigError: the class folders are like that.
    """
    shared: set[str] | None = None
    for path in classes:
        below = {p.name for p in subfolders(path)}
        shared = below if shared is None else shared & below
        if len(shared) < 2 or _has_images(path):
            return
    if shared is None or len(classes) < 2:
        return
    names, inner = listed([path.name for path in classes]), listed(sorted(shared))
    start = f"{folder}: {names} hold no images, but each holds the folders {inner}"
    if all(_LIKE_A_SPLIT.fullmatch(name.lower()) for name in shared):
        raise ConfigError(
            f"{start}, which look like splits. Splits come first: {folder}/train/CLASS/*.jpg and "
            f"{folder}/val/CLASS/*.jpg"
        )
    first = next((path for path in classes if image_files(path)), classes[0])
    second = next(path for path in classes if path != first)
    raise ConfigError(
        f"{start}. If {names} are the classes, move the images up into them. If {inner} are the "
        f"classes, name the folder to read: --data.dir {first}; or two folders, to train on one "
        f"and to evaluate on the other: --data.train_split {first.name} "
        f"--data.eval_split {second.name}"
    )


def empty_class(root: Path, folder: Path, empty: Path, classes: list[Path]) -> ConfigError:
    """The error for a class folder without images.

    Args:
      root: names in the message are relative to it.
      folder: the folder of the class folders.
      empty: the class folder without images.
      classes: all class folders.
    """
    filled = [path for path in classes if image_files(path)]
    deep = filled[0] if len(filled) == 1 and not _has_images(filled[0]) else None
    if deep is not None and len(subfolders(deep)) > 1:
        return one_class(folder, deep.name)
    other = Skipped()
    image_files(empty, other)
    there = other.reasons(root)
    start = f"{empty}: no images in this class folder{there and f', only {there}'}"
    if empty.name.lower() in _NO_CLASSES:
        return ConfigError(
            f"{start}. This looks like a data set for detection or segmentation, without class "
            f"folders; needs {folder}/CLASS/*.jpg"
        )
    if other.count("*.heic") or other.count("*.heif"):
        return ConfigError(f"{start}. Convert them to JPEG or PNG, which can be read")
    return ConfigError(f"{start}. Add some, or remove the folder")


def one_class(folder: Path, name: str) -> ConfigError:
    """The error for a folder with a single class; often the classes are one level deeper."""
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
    """Whether the folder itself has images, not counting its subfolders."""
    outside = Skipped()
    subfolders(folder, outside)
    return outside.count("outside of the class folders") > 0
