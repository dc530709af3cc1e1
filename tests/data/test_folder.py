"""train/data/sources/folder.py: the files and labels that are read, and error messages."""

import dataclasses
from pathlib import Path

import pytest

from tests.examples import picture, refusal
from train.config import DataConfig
from train.data.sources import open_splits


@pytest.fixture
def photos(tmp_path) -> Path:
    """DIR/{train,val}/CLASS/*, written in no particular order; `value` of a picture is unique."""
    names = ["train/zebra/2.png", "train/Ape/b.JPG", "train/Ape/a.jpeg", "val/zebra/x.webp"]
    names += ["train/cat/1.bmp", "train/zebra/10.png", "val/cat/1.png", "train/cat/deep/er/0.png"]
    for value, name in enumerate(names):
        picture(tmp_path / name, 20 * value)
    for name in ("train/cat/notes.txt", "train/.hidden/1.png", "train/readme.md", "val/cat/a.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture to train on")
    return tmp_path


def folder(root: Path, **options) -> DataConfig:
    return DataConfig(name="folder", dir=str(root), **{"eval_split": "val", **options})


def test_folder_with_splits(photos):
    train, val = open_splits(folder(photos))
    assert list(train.class_names) == ["Ape", "cat", "zebra"] == list(val.class_names)
    assert [(train.name(i), train[i].label) for i in range(len(train))] == [
        ("train/Ape/a.jpeg", 0),
        ("train/Ape/b.JPG", 0),
        ("train/cat/1.bmp", 1),
        ("train/cat/deep/er/0.png", 1),
        ("train/zebra/10.png", 2),
        ("train/zebra/2.png", 2),
    ]
    # val has no Ape: cat is 1 there as well
    assert [(val.name(i), val[i].label) for i in range(len(val))] == [
        ("val/cat/1.png", 1),
        ("val/zebra/x.webp", 2),
    ]
    for source in (train, val):
        for i in range(len(source)):
            assert source[i].image == (photos / source.name(i)).read_bytes()


def test_folder_splits_may_have_other_names(photos):
    (photos / "val").rename(photos / "held_out")
    splits = open_splits(folder(photos, eval_split="held_out"))
    assert (len(splits.train), len(splits.eval)) == (6, 2)
    assert splits.eval.name(0) == "held_out/cat/1.png"


def test_runs_from_before_keep_the_share_that_is_cut_by_place(tmp_path):
    for i in range(20):
        picture(tmp_path / "ab"[i % 2] / f"{i:02}.png", i)
    config = folder(tmp_path, eval_fraction=0.25, held_out="by_place")
    train, val = open_splits(config)
    assert list(train.class_names) == ["a", "b"] == list(val.class_names)
    names = [[source.name(i) for i in range(len(source))] for source in (train, val)]
    assert [len(part) for part in names] == [15, 5]
    whole = sorted(f"{'ab'[i % 2]}/{i:02}.png" for i in range(20))
    assert sorted(names[0] + names[1]) == whole
    for source, part in zip((train, val), names, strict=True):
        assert part == sorted(part)
        assert [source[i].label for i in range(len(part))] == ["ab".index(n[0]) for n in part]
    again, other = open_splits(config), open_splits(dataclasses.replace(config, split_seed=1))
    assert [again.eval.name(i) for i in range(5)] == names[1]
    assert [other.eval.name(i) for i in range(5)] != names[1]
    # fixed results: a run of an old version must keep its split
    assert names[1] == ["a/04.png", "a/08.png", "a/12.png", "b/07.png", "b/19.png"]


def test_home_folder_is_expanded(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert len(open_splits(folder(Path("~") / photos.name)).train) == 6


@pytest.mark.parametrize("name", ["folder", "npz", "mnist"])
def test_a_home_that_is_not_there_is_an_error(name):
    message = refusal(DataConfig(name=name, dir="~nobody-of-this-name/photos"))
    assert message == (
        "data.dir '~nobody-of-this-name/photos': the home directory is not known (there is no user "
        "'nobody-of-this-name'); write the path in full"
    )


def test_folder_that_is_not_there(tmp_path):
    message = refusal(folder(tmp_path / "nowhere"))
    assert message == f"data.dir {str(tmp_path / 'nowhere')!r}: no such folder"
    (tmp_path / "file").write_text("")
    assert "is a file; needs the folder" in refusal(folder(tmp_path / "file"))


def test_split_that_is_not_there(photos):
    (photos / "val").rename(photos / "test")
    message = refusal(folder(photos))
    assert str(photos) in message and "no 'val' folder" in message
    assert message.endswith("it holds 'test', 'train'. Try --data.eval_split test")
    (photos / "train").rename(photos / "photos")
    (photos / "test").rename(photos / "val")
    message = refusal(folder(photos))
    assert "no 'train' folder; it holds 'photos', 'val'" in message
    assert "--data.train_split NAME" in message


def test_class_in_val_that_is_not_in_train(photos):
    picture(photos / "val/dog/1.png", 9)
    message = refusal(folder(photos))
    assert str(photos / "val") in message and "class 'dog' has no training images" in message
    assert "Ape, cat, zebra. Rename the folder to one of them, or move it away" in message


def test_class_folder_without_images(photos):
    for path in (photos / "train/cat").rglob("*.*"):
        path.unlink()
    start = f"{photos / 'train/cat'}: no images in this class folder"
    fix = ". Add some, or remove the folder"
    convert = ". Convert them to JPEG or PNG, which can be read"
    assert refusal(folder(photos)) == start + fix
    (photos / "train/cat/1.heic").touch()
    assert refusal(folder(photos)) == f"{start}, only *.heic: 1 (train/cat/1.heic){convert}"


def test_class_without_evaluation_images_is_reported(photos):
    """An empty folder is the same as a missing one."""
    for path in (photos / "val/cat").rglob("*.*"):
        path.unlink()
    splits = open_splits(folder(photos))
    assert [splits.eval[i].label for i in range(len(splits.eval))] == [2]
    assert splits.notes[-1] == f"{photos}: 2 of 3 classes have no evaluation images: 'Ape', 'cat'"


def test_folder_without_class_folders(tmp_path):
    picture(tmp_path / "1.png", 1)
    message = refusal(folder(tmp_path))
    assert message.startswith(f"{tmp_path}: no class folders") and "CLASS" in message
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    assert refusal(folder(tmp_path)).startswith(f"{tmp_path / 'train'}: no class folders")


def test_a_folder_named_like_an_image_is_no_image(photos):
    (photos / "train/cat/9.png").mkdir()
    source = open_splits(folder(photos)).train
    assert "train/cat/9.png" not in [source.name(i) for i in range(len(source))]
