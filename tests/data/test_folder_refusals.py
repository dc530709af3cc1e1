"""Folders with an unclear layout are refused, with the fix in the message."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_folder_layouts import follow, tree
from tests.examples import names, picture, refusal
from train.config import DataConfig
from train.data.sources import class_counts, open_splits


def more(config: DataConfig, *folders: str) -> DataConfig:
    """More pictures in each folder, so that some are held out."""
    for folder in folders:
        for i in range(20):
            picture(Path(str(config.dir)) / folder / f"more{i}.png")
    return config


@pytest.mark.parametrize("name, other", [("dev", "ops"), ("train", "car")])
def test_one_folder_of_images_with_the_name_of_a_split_is_a_class(tmp_path, name, other):
    splits = open_splits(more(tree(tmp_path, name, other), name, other))
    assert list(splits.train.class_names) == sorted([name, other])
    assert splits.notes[0] == f"{tmp_path}: {name!r} is read as a class, not as a split"


def test_a_folder_that_looks_like_a_split_is_called_so(tmp_path):
    message = refusal(tree(tmp_path, "dev/a", "dev/b", "ops"))
    assert "has 'dev', which looks like the split 'val', but no 'train' folder" in message
    assert "--data.train_split NAME" in message and "If 'dev' is a class, rename it" in message
    assert "has 'val'" not in message


def test_images_beside_masks_are_no_classes(tmp_path):
    config = tree(tmp_path, *(f"{kind}/{name}" for kind in ("images", "masks") for name in "ab"))
    message = refusal(config)
    assert "'images', 'masks' hold no images" in message
    assert "each holds the folders 'a', 'b'" in message
    start = message.index(f"--data.dir {tmp_path / 'images'};")
    splits = follow(config, message[start:].split(";")[0])
    assert list(splits.train.class_names) == ["a", "b"]


@pytest.mark.parametrize("splits", [("trn", "tst"), ("fold0", "fold1", "fold2")])
def test_splits_of_unknown_names_are_no_classes(tmp_path, splits):
    config = tree(tmp_path, *(f"{split}/{name}" for split in splits for name in "ab"))
    message = refusal(config)
    found = follow(config, message[message.index("--data.train_split") :])
    assert (names(found.train)[0], names(found.eval)[0]) == (
        f"{splits[0]}/a/0.png",
        f"{splits[1]}/a/0.png",
    )


def test_splits_in_each_class_are_no_part_of_it(tmp_path):
    message = refusal(tree(tmp_path, "cat/train", "cat/val", "dog/train", "dog/val"))
    assert "each holds the folders 'train', 'val', which look like splits" in message
    assert f"{tmp_path}/train/CLASS/*.jpg" in message


def test_one_common_folder_is_part_of_the_class(tmp_path):
    """The layout of Tiny ImageNet."""
    splits = open_splits(
        more(tree(tmp_path, "cat/images", "dog/images"), "cat/images", "dog/images")
    )
    assert list(splits.train.class_names) == ["cat", "dog"]


@pytest.mark.parametrize("added", ["@eaDir/cat", "@eaDir/dog", "cat/@eaDir", "__MACOSX/cat"])
def test_folders_that_a_system_adds_are_skipped_and_counted(tmp_path, added):
    splits = open_splits(tree(tmp_path, "cat", "dog", added))
    assert list(splits.train.class_names) == ["cat", "dog"]
    assert len(splits.train) + len(splits.eval) == 6
    assert "system folder: 1" in splits.notes[0]


def test_classes_one_level_too_deep_beside_another_folder(tmp_path):
    config = tree(tmp_path, "images/a", "images/b")
    (tmp_path / "docs").mkdir()
    message = refusal(config)
    assert list(follow(config, message).train.class_names) == ["a", "b"]


def test_a_detection_data_set_is_recognised(tmp_path):
    config = tree(tmp_path, "train/images", "val/images")
    for split in ("train", "val"):
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels/0.txt").write_text("0 0.5 0.5 1 1")
    message = refusal(config)
    assert "data set for detection or segmentation" in message
    assert f"{tmp_path}/train/CLASS/*.jpg" in message


def test_a_class_of_photos_that_cannot_be_read_says_how_to_go_on(tmp_path):
    config = tree(tmp_path, "cat", "dog")
    (tmp_path / "eel").mkdir()
    (tmp_path / "eel/1.heic").touch()
    assert refusal(config).endswith("Convert them to JPEG or PNG, which can be read")


def test_both_spellings_of_an_accent_are_one_class(tmp_path):
    one, other = (unicodedata.normalize(form, "\u00e9") for form in ("NFC", "NFD"))
    assert one != other
    splits = open_splits(tree(tmp_path, "train/a", f"train/{other}", "val/a", f"val/{one}"))
    assert list(splits.train.class_names) == ["a", one]
    np.testing.assert_array_equal(class_counts(splits.eval), [3, 3])


def test_a_file_is_no_folder(tmp_path):
    path = picture(tmp_path / "2.jpg")
    message = refusal(DataConfig(name="folder", dir=str(path)))
    assert message.startswith(f"data.dir {str(path)!r}: is a file; needs the folder")


def test_a_folder_is_no_npz_file(tmp_path):
    message = refusal(DataConfig(name="npz", dir=str(tmp_path)))
    assert message.startswith(f"data.dir {str(tmp_path)!r}: is a folder; npz needs an .npz file")
    assert "--data.name folder" in message
