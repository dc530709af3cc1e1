"""train/data/check.py: bad evaluation images are found before training."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.examples import picture
from tests.runs import tiny
from train.config import ConfigError, DataConfig
from train.data.check import check_images
from train.data.sources import ArraySource, Example, open_splits
from train.run.fit import fit


@pytest.fixture
def photos(tmp_path) -> DataConfig:
    for split in ("train", "val"):
        for name in ("a", "b"):
            for i in range(8):
                picture(tmp_path / split / name / f"{i}.jpg", 30 * i, size=16)
    return DataConfig(name="folder", dir=str(tmp_path), eval_split="val", image_size=16, threads=2)


def spoil(config: DataConfig) -> None:
    """A text file, an empty file and a truncated image."""
    val = Path(str(config.dir)) / "val"
    (val / "a/0.jpg").write_text("text")
    (val / "a/1.jpg").write_bytes(b"")
    data = (val / "b/2.jpg").read_bytes()
    (val / "b/2.jpg").write_bytes(data[: len(data) // 2])


def test_good_images_pass(photos):
    assert check_images(open_splits(photos).eval, photos) == ""


def test_all_bad_images_are_named_at_once(photos):
    spoil(photos)
    with pytest.raises(ConfigError) as error:
        check_images(open_splits(photos).eval, photos)
    message = str(error.value)
    assert message.startswith("evaluation images that cannot be used: 3: val/")
    assert all(f"val/{name}: " in message for name in ("a/0.jpg", "a/1.jpg", "b/2.jpg"))
    assert "--data.on_bad_image skip" in message


def test_every_file_may_have_gone(photos):
    """Also the first image, which decides nothing."""
    source = open_splits(photos).eval
    for path in (Path(str(photos.dir)) / "val").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"cannot be used: 16: val/.*No such file"):
        check_images(source, photos)


def test_processes_share_the_work(photos):
    spoil(photos)
    source, reads = open_splits(photos).eval, []

    class Counting:
        class_names = source.class_names

        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            reads.append(index)
            return source[index]

        def name(self, index):
            return source.name(index)

    messages = []
    for process in range(3):
        with pytest.raises(ConfigError) as error:
            check_images(Counting(), photos, shard=(process, 3))
            raise ConfigError("none")
        messages.append(str(error.value))
    assert set(reads) == set(range(16)) and len(reads) == 16
    assert [name for name in ("a/0", "a/1", "b/2") if name not in " ".join(messages)] == []


def test_images_that_are_skipped_are_left_to_the_evaluation(photos):
    spoil(photos)
    assert check_images(open_splits(photos).eval, replace(photos, on_bad_image="skip")) == ""


def test_arrays_have_nothing_to_check():
    images = np.zeros((4, 8, 8, 3), np.uint8)

    class Once(ArraySource):
        def __getitem__(self, index: int) -> Example:
            assert index == 0
            return super().__getitem__(index)

    source = Once(images, np.array([0, 1, 7, 9]), ["a", "b"], "test")
    assert check_images(source, DataConfig(name="npz")) == ""


def test_labels_that_are_no_class_are_found_too(photos):
    source = replace(open_splits(photos).eval, labels=[0] * 15 + [-1])
    with pytest.raises(ConfigError, match=r"val/b/7\.jpg: label -1 is not in 0\.\.1"):
        check_images(source, photos)


def test_it_ends_in_time_and_says_so(photos):
    source = open_splits(photos).eval

    class Slow:
        class_names = source.class_names

        def __len__(self):
            return 1000

        def __getitem__(self, index):
            time.sleep(0.01)
            return source[index % 16]

        def name(self, index):
            return str(index)

    since = time.monotonic()
    note = check_images(Slow(), photos, seconds=0.2)
    assert time.monotonic() - since < 5
    checked, _, total = note.removeprefix("checked ").partition(" evaluation images")[0].split()
    assert 2 <= int(checked) < 200 and total == "1,000"
    assert "in 0.2 s; the first evaluation reads the others" in note
    assert check_images(Slow(), photos, stopped=lambda: True) == ""


def test_a_run_finds_them_before_its_first_step(photos, tmp_path):
    spoil(photos)
    config = tiny(data=replace(photos, mean=(0.5,), std=(0.25,)), batch_size=8, duration="4st")
    with pytest.raises(ConfigError, match="evaluation images that cannot be used: 3"):
        fit(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "config.json").exists()
