"""Folders of photos: DIR/{train,val}/CLASS/*, or DIR/CLASS/* with a held-out share."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.config import ConfigError, DataConfig
from train.data.sources.base import Example, Splits, data_path, listed, nfc
from train.data.sources.held_out import held_out_by_name, held_out_by_place
from train.data.sources.layout import (
    Layout,
    empty_class,
    find_layout,
    one_class,
    refuse_shared_subfolders,
)
from train.data.sources.listing import Skipped, image_files, subfolders


@dataclass(frozen=True)
class FolderSource:
    """Image files and their labels; the names in messages are relative to `root`."""

    root: Path
    files: Sequence[Path]
    labels: Sequence[int] | np.ndarray
    class_names: Sequence[str]
    channels: int = 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        with open(self.files[index], "rb", buffering=0) as file:  # a third of read_bytes()'s time
            return Example(file.readall(), self.labels[index])

    def name(self, index: int) -> str:
        return str(self.files[index]).removeprefix(os.path.join(self.root, ""))

    def file_names(self) -> list[str]:
        """Names of all files: relative to the root, with "/", in Unicode form NFC on any system."""
        return nfc(self.name(i).replace(os.sep, "/") for i in range(len(self)))

    def subset(self, indices: np.ndarray) -> "FolderSource":
        """The files at these indices."""
        labels = np.asarray(self.labels)[indices].tolist()
        files = [self.files[i] for i in indices]
        return FolderSource(self.root, files, labels, self.class_names)


def open_folder(
    config: DataConfig, *, whole: bool = False, class_names: Sequence[str] | None = None
) -> Splits:
    """Opens a folder of photos.

    Args:
      whole: evaluate all of DIR/CLASS/*, without holding out a share: for a folder that the run was
        not trained on.
      class_names: the names of the labels; the folder may lack some. None: the folder's classes.

    Raises:
      ConfigError: the folder does not exist, or its layout is not one of those above.
      OSError: the folder cannot be listed.
    """
    root = data_path(config)
    if root.is_file():
        raise ConfigError(
            f"data.dir {str(root)!r}: is a file; needs the folder that holds the class folders"
        )
    if not root.is_dir():
        raise ConfigError(f"data.dir {str(root)!r}: no such folder")
    layout = find_layout(root, config, whole=whole)
    skipped = Skipped()
    train = _read(root, layout.train, skipped, class_names, config, complete=not whole)
    if layout.eval is not None and not whole:
        names = train.class_names
        evaluation = _read(root, layout.eval, skipped, names, config, complete=False)
        parts = (train, evaluation)
    else:
        parts = (train, train) if whole else _hold_out(train, config)
    test = None
    if layout.test is not None:
        test = _read(root, layout.test, skipped, train.class_names, config, complete=False)
    notes = [
        *layout.notes,
        skipped.describe(root),
        *([] if whole else _empty_notes(*parts)),
    ]
    unused = _unused(root, layout, whole=whole)
    return Splits(*parts, notes=[note for note in notes if note], unused=unused, test=test)


def _unused(root: Path, layout: Layout, *, whole: bool) -> dict[str, str]:
    """The options without effect: see `Splits.unused`."""
    holding_out = ("eval_fraction", "split_seed", "held_out")
    if whole:
        return dict.fromkeys(holding_out, f"all images of {root} are evaluated")
    if layout.eval is not None:
        splits = f"{layout.train.name!r} and {layout.eval.name!r}"
        return dict.fromkeys(holding_out, f"{root} has the splits {splits}")
    if layout.train != root:
        return {"eval_split": f"a share of {layout.train.name!r} is held out for evaluation"}
    reason = f"{root} has no folders of splits; data.eval_fraction of the images is held out"
    return dict.fromkeys(("train_split", "eval_split"), reason)


def _read(
    root: Path,
    folder: Path,
    skipped: Skipped,
    class_names: Sequence[str] | None,
    config: DataConfig,
    *,
    complete: bool,
) -> FolderSource:
    """The images of all class folders in a folder.

    Args:
      class_names: the allowed classes; None: all.
      complete: whether every class folder must have images, and there must be at least two.
    """
    folders = subfolders(folder, skipped, version=config.listing)
    if not folders:
        raise ConfigError(f"{folder}: no class folders in it; needs {folder}/CLASS/*.jpg")
    if complete and config.listing > 1:
        refuse_shared_subfolders(folder, folders)
    classes = nfc(path.name for path in folders)
    names = list(class_names or dict.fromkeys(classes))
    label_of = {name: label for label, name in enumerate(nfc(names))}
    if unknown := sorted(set(classes) - set(label_of)):
        raise ConfigError(
            f"{folder}: class {unknown[0]!r} has no training images; the training classes are "
            f"{', '.join(names)}. Rename the folder to one of them, or move it away"
        )
    files, labels = [], []
    for path, name in zip(folders, classes, strict=True):
        found = image_files(path, skipped, version=config.listing)
        if complete and not found:
            raise empty_class(root, folder, path, folders)
        files += found
        labels += [label_of[name]] * len(found)
    if complete and len(names) == 1:
        raise one_class(folder, names[0])
    return FolderSource(root, files, labels, names)


def _hold_out(source: FolderSource, config: DataConfig) -> tuple[FolderSource, FolderSource]:
    fraction, seed = config.eval_fraction, config.split_seed
    if config.held_out == "by_place":
        held = held_out_by_place(len(source), fraction, seed)
    else:
        held = held_out_by_name(source.file_names(), fraction, seed)
    train, evaluation = source.subset(np.flatnonzero(~held)), source.subset(np.flatnonzero(held))
    empty = _empty_classes(train)
    if empty and config.held_out == "by_name":
        raise ConfigError(
            f"{source.root}: all images of {listed(empty)} are in the held-out share "
            f"(data.eval_fraction {fraction}, each file by its own name). Add images, choose "
            f"another --data.split_seed, or make the folders {source.root}/train/CLASS and "
            f"{source.root}/val/CLASS"
        )
    return train, evaluation


def _empty_notes(train: FolderSource, evaluation: FolderSource) -> list[str]:
    """Notes about classes without evaluation images."""
    empty = _empty_classes(evaluation)
    if not empty or not len(evaluation):  # an empty split is an error, see `open_splits`
        return []
    count = f"{len(empty)} of {len(train.class_names)} classes"
    return [f"{train.root}: {count} have no evaluation images: {listed(empty)}"]


def _empty_classes(source: FolderSource) -> list[str]:
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    return [name for name, n in zip(source.class_names, counts, strict=True) if not n]
