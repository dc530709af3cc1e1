"""train/data/sources/listing.py: the image files, and the report of skipped files."""

import errno
import io
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.examples import names, picture
from train.config import DataConfig
from train.data.images.decode import decode
from train.data.sources import IMAGE_SUFFIXES, image_files, open_splits
from train.data.sources.listing import Skipped, subfolders


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_what_is_listed_can_be_decoded(suffix, tmp_path):
    """Files of every extension, in lower and upper case, as Pillow writes them."""
    for name in ("a", "b"):
        for split in ("train", "val"):
            picture(tmp_path / split / name / f"1{suffix}", 200, size=32)
    (tmp_path / "train/a" / f"1{suffix}").rename(tmp_path / "train/a" / f"1{suffix.upper()}")
    train = open_splits(DataConfig(name="folder", dir=str(tmp_path), eval_split="val")).train
    assert names(train) == [f"train/a/1{suffix.upper()}", f"train/b/1{suffix}"]
    for i in range(2):
        pixels = decode(train[i].image, max_pixels=10_000)
        assert pixels.shape == (32, 32, 3)
        assert abs(pixels.mean() - 200) < 3


def odd_folder(root: Path) -> Path:
    """A class folder with 2 images and one of everything that is skipped."""
    cat = root / "cat"
    picture(cat / "1.png")
    (cat / "linked.png").symlink_to(cat / "1.png")
    for name in ("._1.jpg", ".hidden.png", "notes.txt", "raw.heic", "raw2.HEIC", "README"):
        (cat / name).write_bytes(b"no image")
    picture(cat / ".ipynb_checkpoints/1-checkpoint.png")
    (cat / "broken.jpg").symlink_to(root / "nowhere.jpg")
    (cat / "circle.jpg").symlink_to(cat / "circle.jpg")
    (cat / "loop").symlink_to(cat)
    os.mkfifo(cat / "pipe.jpg")
    return cat


def test_what_is_no_image_is_counted_and_named(tmp_path):
    skipped = Skipped()
    cat = odd_folder(tmp_path)
    assert image_files(cat, skipped) == [cat / "1.png", cat / "linked.png"]
    assert skipped.describe(tmp_path) == (
        f"{tmp_path}: 11 files or folders are not read as images: "
        "macOS metadata (._*): 1 (cat/._1.jpg); "
        "hidden: 2 (cat/.hidden.png, cat/.ipynb_checkpoints); "
        "without an extension: 1 (cat/README); "
        "broken link: 2 (cat/broken.jpg, cat/circle.jpg); "
        "linked folder: 1 (cat/loop); "
        "*.txt: 1 (cat/notes.txt); "
        "not a regular file: 1 (cat/pipe.jpg); "
        "*.heic: 2 (cat/raw.heic, cat/raw2.HEIC)"
    )


def test_a_run_is_told_in_one_line(tmp_path):
    odd_folder(tmp_path)
    picture(tmp_path / "dog/1.png")
    picture(tmp_path / "dog/2.png")
    picture(tmp_path / "lost.png")
    (tmp_path / "dog/back").symlink_to(tmp_path)
    (tmp_path / "back").symlink_to(tmp_path)
    config = DataConfig(name="folder", dir=str(tmp_path), eval_fraction=0.5, split_seed=3)
    splits = open_splits(config)
    everything = sorted(names(splits.train) + names(splits.eval))
    assert everything == ["cat/1.png", "cat/linked.png", "dog/1.png", "dog/2.png"]
    (note,) = [note for note in splits.notes if "not read" in note]
    assert "14 files or folders" in note and "\n" not in note
    assert "outside of the class folders: 1 (lost.png)" in note
    assert "linked folder: 2 (cat/loop, dog/back)" in note
    assert "linked folder that contains this one: 1 (back)" in note


def test_a_folder_with_nothing_else_needs_no_line(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        for split in ("train", "val"):
            picture(tmp_path / split / name)
    assert open_splits(DataConfig(name="folder", dir=str(tmp_path), eval_split="val")).notes == []


def test_many_files_are_counted_and_two_are_named(tmp_path):
    for i in range(1234):
        (tmp_path / f"{i:04}.txt").touch()
    skipped = Skipped()
    assert image_files(tmp_path, skipped) == []
    assert skipped.describe(tmp_path).endswith("*.txt: 1,234 (0000.txt, 0001.txt, ...)")


def test_a_class_may_be_a_link(tmp_path):
    picture(tmp_path / "elsewhere/1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cat").symlink_to(tmp_path / "elsewhere")
    assert subfolders(tmp_path / "data") == [tmp_path / "data/cat"]
    assert image_files(tmp_path / "data/cat") == [tmp_path / "data/cat/1.png"]


def test_images_are_sorted_by_folder_whatever_the_system_lists(tmp_path, monkeypatch):
    """The order of earlier versions: a resumed run finds each example at its index."""
    for name in ("b/1.png", "a.png", "a/2.png", "a/b/0.png", "a b/3.png", "B.png"):
        picture(tmp_path / name)
    expected = sorted(p for p in tmp_path.rglob("*.png") if p.is_file())
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            pass

    assert image_files(tmp_path) == expected
    monkeypatch.setattr(os, "scandir", Backwards)
    assert image_files(tmp_path) == expected


def failing(monkeypatch, folder: Path, number: int) -> None:
    """Makes listing this folder fail (not by permissions, which root ignores)."""
    scandir = os.scandir

    def scan(path):
        if Path(path) == folder:
            raise OSError(number, os.strerror(number), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    picture(tmp_path / "cat/1.png")
    picture(tmp_path / "cat/locked/2.png")
    failing(monkeypatch, tmp_path / "cat/locked", errno.EACCES)
    skipped = Skipped()
    assert image_files(tmp_path / "cat", skipped) == [tmp_path / "cat/1.png"]
    line = skipped.describe(tmp_path)
    assert line.endswith("folder that cannot be listed (Permission denied): 1 (cat/locked)")


def test_storage_that_is_down_is_no_empty_folder(tmp_path, monkeypatch):
    picture(tmp_path / "cat/1.png")
    picture(tmp_path / "cat/far/2.png")
    failing(monkeypatch, tmp_path / "cat/far", errno.ESTALE)
    with pytest.raises(OSError) as error:
        image_files(tmp_path / "cat")
    assert error.value.errno == errno.ESTALE


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).touch()
    skipped = Skipped()
    image_files(tmp_path, skipped)
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict") as strict:
        strict.write(skipped.describe(tmp_path))
    assert "caf\\xe9.txt" in skipped.describe(tmp_path)
    image = Image.new("RGB", (4, 4))
    image.save(tmp_path / os.fsdecode(b"caf\xe9.png"))
    assert len(image_files(tmp_path)) == 1
