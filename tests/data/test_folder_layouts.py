"""train/data/sources/layout.py: layouts are recognised, or refused with a working command."""

import shlex
from pathlib import Path

import pytest

from tests.examples import names, picture, refusal
from train.config import ConfigError, DataConfig
from train.data.sources import Splits, open_splits


def tree(root: Path, *folders: str) -> DataConfig:
    """Writes three pictures to each folder; returns the config of the recipe for them."""
    for folder in folders:
        for i in range(3):
            picture(root / folder / f"{i}.png")
    return DataConfig(name="folder", dir=str(root), eval_split="val", eval_fraction=0.5)


def follow(config: DataConfig, message: str) -> Splits:
    """Opens the data with the options at the end of the message."""
    words = shlex.split(message[message.index("--data.") :])
    options = dict(zip(words[::2], words[1::2], strict=True))
    changes = {key.removeprefix("--data."): value for key, value in options.items()}
    return open_splits(DataConfig(**{**vars(config), **changes}))


@pytest.mark.parametrize(
    "train, val",
    [
        ("Train", "Val"),
        ("TRAIN", "VAL"),
        ("training", "validation"),
        ("Training", "Validation"),
        ("train", "valid"),
        ("train", "dev"),
    ],
)
def test_other_spellings_are_recognised(tmp_path, train, val):
    places = [f"{split}/{name}" for split in (train, val, "test") for name in ("cat", "dog")]
    splits = open_splits(tree(tmp_path, *places))
    assert list(splits.train.class_names) == ["cat", "dog"]
    assert names(splits.train)[0] == f"{train}/cat/0.png"
    assert names(splits.eval)[-1] == f"{val}/dog/2.png"
    assert len(splits.train) == len(splits.eval) == 6
    assert splits.notes == [f"{tmp_path}: trains on {train!r} and evaluates on {val!r}"]


def test_the_name_itself_comes_before_other_spellings(tmp_path):
    places = [f"{split}/{name}" for split in ("train", "val", "valid") for name in ("a", "b")]
    splits = open_splits(tree(tmp_path, *places))
    assert names(splits.eval)[0] == "val/a/0.png" and splits.notes == []


def test_two_other_spellings_are_a_question(tmp_path):
    places = [f"{s}/{name}" for s in ("train", "Valid", "validation") for name in ("a", "b")]
    config = tree(tmp_path, *places)
    message = refusal(config)
    assert "data.eval_split 'val' may mean 'Valid', 'validation'" in message
    assert message.endswith("choose one: --data.eval_split NAME")


def test_a_test_split_is_no_validation_split_but_may_be_named(tmp_path):
    config = tree(tmp_path, *(f"{s}/{name}" for s in ("training", "testing") for name in "ab"))
    message = refusal(config)
    assert "has 'training', which looks like the split 'train', but no 'val' folder" in message
    splits = follow(config, message)
    assert names(splits.eval)[0] == "testing/a/0.png"


def test_names_of_kaggle(tmp_path):
    config = tree(tmp_path, *(f"{s}/{name}" for s in ("training_set", "test_set") for name in "ab"))
    message = refusal(config)
    assert "'test_set', 'training_set' look like splits, not like classes" in message
    splits = follow(config, message)
    assert (names(splits.train)[0], names(splits.eval)[0]) == (
        "training_set/a/0.png",
        "test_set/a/0.png",
    )


def test_a_training_split_alone_may_be_cut(tmp_path):
    config = tree(tmp_path, "train/a", "train/b")
    message = refusal(config)
    splits = follow(config, message)
    assert len(splits.train) + len(splits.eval) == 6


@pytest.mark.parametrize("folders", [("train", "val"), ("Train", "TEST", "dev"), ("test",)])
def test_splits_are_never_classes(tmp_path, folders):
    message = refusal(tree(tmp_path, *folders))
    assert message.startswith(f"{tmp_path}") and "no class folders" in message
    assert "/CLASS/*.jpg" in message


def test_train_may_be_a_class_among_others(tmp_path):
    splits = open_splits(tree(tmp_path, "bus", "car", "train"))
    assert list(splits.train.class_names) == ["bus", "car", "train"]


@pytest.mark.parametrize("deep", ["images", "data/images"])
def test_one_level_too_deep(tmp_path, deep):
    config = tree(tmp_path, f"{deep}/cat", f"{deep}/dog")
    message = refusal(config)
    assert f"one level too deep, in {tmp_path / deep} ('cat', 'dog')" in message
    assert list(follow(config, message).train.class_names) == ["cat", "dog"]


def test_splits_one_level_too_deep(tmp_path):
    config = tree(tmp_path, *(f"pets/{split}/{c}" for split in ("train", "val") for c in "ab"))
    splits = follow(config, refusal(config))
    assert names(splits.eval)[0] == "val/a/0.png"


def test_classes_of_a_split_one_level_too_deep(tmp_path):
    places = [f"{split}/images/{name}" for split in ("train", "val") for name in ("cat", "dog")]
    message = refusal(tree(tmp_path, *places))
    train = tmp_path / "train"
    assert message.endswith(f"move the folders of {train / 'images'} into {train}")


def test_folders_in_a_class_are_part_of_it(tmp_path):
    splits = open_splits(tree(tmp_path, "cat/indoor", "cat/outdoor", "dog/indoor", "dog/garden"))
    assert list(splits.train.class_names) == ["cat", "dog"]


@pytest.mark.parametrize("folders", [("cat",), ("train/cat", "val/cat")])
def test_one_class_is_refused(tmp_path, folders):
    message = refusal(tree(tmp_path, *folders))
    assert "holds one class only, 'cat'" in message and "at least two classes" in message


def test_images_without_classes(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    message = refusal(DataConfig(name="folder", dir=str(tmp_path), eval_split="val"))
    assert message == f"{tmp_path}: no class folders in it; needs {tmp_path}/CLASS/*.jpg"


# --- another folder is evaluated whole ------------------------------------------------------------


def whole(config: DataConfig) -> Splits:
    return open_splits(config, whole=True, class_names=["a", "b", "c"])


def test_a_folder_of_classes_is_evaluated_whole_and_may_lack_some(tmp_path):
    config = tree(tmp_path, "c", "b")
    splits = whole(config)
    assert len(splits.eval) == 6 and list(splits.eval.class_names) == ["a", "b", "c"]
    assert [splits.eval[i].label for i in range(6)] == [1, 1, 1, 2, 2, 2]
    assert len(whole(tree(tmp_path / "one", "b")).eval) == 3


def test_of_a_folder_with_splits_the_evaluation_split_is_read(tmp_path):
    config = tree(tmp_path, "train/other", "val/a", "val/c")
    assert names(whole(config).eval)[0] == "val/a/0.png"
    assert [whole(config).eval[i].label for i in range(6)] == [0, 0, 0, 2, 2, 2]


def test_another_folder_with_another_class_is_refused(tmp_path):
    config = tree(tmp_path, "a", "z")
    with pytest.raises(ConfigError, match="class 'z' has no training images"):
        whole(config)
