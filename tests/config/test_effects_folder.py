"""Options that the layout of a folder of photos leaves without effect are reported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runs import tiny
from train.config import DataConfig
from train.config.effects import unused_by_folder
from train.config.serialize import to_json
from train.data.sources import open_splits
from train.run import data_changes
from train.run.checks import find_warnings
from train.run.parts import Run


def photos(root: Path, *parents: str) -> Path:
    for parent in parents:
        for label, name in enumerate(("cat", "dog")):
            folder = root / parent / name
            folder.mkdir(parents=True)
            for i in range(8):
                pixels = np.full((8, 8, 3), 100 * label + i, np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def warnings(root: Path, *, whole: bool = False, **changes: object) -> list[str]:
    base = replace(tiny().data, name="folder", dir=str(root), eval_split="val")
    data: DataConfig = replace(base, **changes)
    return unused_by_folder(open_splits(data, whole=whole).unused, data, vars(base))


@pytest.mark.parametrize(
    ("option", "value"), [("eval_fraction", 0.4), ("split_seed", 1), ("held_out", "by_place")]
)
def test_nothing_is_held_out_where_there_are_splits(option, value, tmp_path):
    split = photos(tmp_path / "a", "train", "val")
    assert warnings(split, **{option: value}) == [
        f"--data.{option} {value} has no effect: {split} has the splits 'train' and 'val'"
    ]
    assert warnings(split) == [] == warnings(photos(tmp_path / "b", ""), **{option: value})
    [message] = warnings(tmp_path / "b", whole=True, **{option: value})
    assert message.endswith(f"has no effect: all images of {tmp_path / 'b'} are evaluated")


@pytest.mark.parametrize("option", ["train_split", "eval_split"])
def test_a_folder_of_classes_has_no_splits_to_name(option, tmp_path):
    root = photos(tmp_path / "a", "")
    [message] = warnings(root, **{option: "other"})
    assert message.startswith(
        f"--data.{option} other has no effect: {root} has no folders of splits"
    )
    assert warnings(photos(tmp_path / "b", "other", "train"), eval_split="other") == []


def test_training_and_evaluation_report_it(tmp_path, monkeypatch):
    root = photos(tmp_path / "a", "train", "val")
    data = replace(tiny().data, name="folder", dir=str(root), eval_split="val")
    run = tiny(data=replace(data, split_seed=7))
    [note] = [note for note in find_warnings(Run(run), trains=True) if "split_seed" in note]
    assert note.startswith("--data.split_seed 7 has no effect: ")
    record = {**to_json(tiny(data=data)), "class_names": ["cat", "dog"]}
    record["examples"] = {"train": 16, "eval": 16}
    monkeypatch.setattr(data_changes, "read_record", lambda workdir: record)
    assert data_changes.open_eval_data(tmp_path, run)[1] == [note]
    assert data_changes.open_eval_data(tmp_path, tiny(data=data))[1] == []
