"""train/data/images/dali.py: the same crops as ours, and unreadable files."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data.test_jpeg import END, photo
from train.config import AugmentConfig, ConfigError, DataConfig
from train.data.images import dali
from train.data.pipeline import train_batches
from train.data.readers import BadExample

JPEGS = [photo(203 + 40 * i, 300 - 30 * i, subsampling=i % 3) for i in range(6)]


class Files:
    """A source of encoded images."""

    class_names = ("a", "b")
    channels = 3

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return self.files[i], i % 2

    def name(self, i):
        return f"file {i}"


def batches(files, decoder, augment=AugmentConfig(area=(0.5, 1.0)), **options):  # noqa: B008
    data = DataConfig(image_size=64, decoder=decoder, threads=2, **options)
    order = {"seed": 3, "batch_size": 4, "start": 0, "stop": 4}
    return list(train_batches(Files(files), data, augment, **order))


def smooth(height: int, width: int) -> bytes:
    """A JPEG of low frequencies, which all resizing filters preserve."""
    down, across = np.mgrid[:height, :width]
    waves = [np.sin(down / 31 + k) + np.cos(across / 23 - k) for k in range(3)]
    picture, file = Image.fromarray((60 * np.stack(waves, -1) + 128).astype(np.uint8)), io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    return file.getvalue()


def test_without_dali_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia", None)
    monkeypatch.setattr(dali, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[dali\]'"):
        batches(JPEGS, "dali")


def test_it_crops_random_resized_only_and_in_threads(monkeypatch):
    monkeypatch.setattr(dali, "check", lambda: None)
    with pytest.raises(ConfigError, match="random_resized, not 'pad'"):
        batches(JPEGS, "dali", AugmentConfig(crop="pad"))
    with pytest.raises(ConfigError, match=r"data\.workers must be 0, not 2"):
        batches(JPEGS, "dali", workers=2)


def test_the_same_crops():
    pytest.importorskip("nvidia.dali")
    files = [smooth(200 + 40 * i, 320 - 30 * i) for i in range(6)]
    files[2] = np.asarray(Image.open(io.BytesIO(files[2])))  # decoded already
    for ours, theirs in zip(batches(files, "cpu"), batches(files, "dali"), strict=True):
        for name in ("label", "index", "mask", "unreadable", "retried"):
            np.testing.assert_array_equal(ours[name], theirs[name])
        apart = np.abs(ours["image"].astype(int) - theirs["image"])
        assert apart.mean() < 1.5 and apart.max() <= 12
        mirrored = np.abs(ours["image"][:, :, ::-1].astype(int) - theirs["image"])
        assert mirrored.mean() > 5


def test_the_same_batch_from_any_step():
    pytest.importorskip("nvidia.dali")
    first, again = batches(JPEGS, "dali"), batches(JPEGS, "dali", prefetch=1)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


def test_other_and_damaged_files():
    pytest.importorskip("nvidia.dali")
    png = io.BytesIO()
    Image.open(io.BytesIO(JPEGS[0])).save(png, "PNG")
    odd = [photo(90, 120, progressive=True), photo(90, 120, mode="L"), png.getvalue()]
    for ours, theirs in zip(batches(odd, "cpu"), batches(odd, "dali"), strict=True):
        np.testing.assert_array_equal(ours["index"], theirs["index"])
        assert np.abs(ours["image"].astype(int) - theirs["image"]).mean() < 4
    for broken in (b"no image", JPEGS[1][:300], JPEGS[1][:300] + END):
        files = [*JPEGS[:3], broken]
        with pytest.raises(BadExample, match="file 3"):
            batches(files, "dali")
        found = batches(files, "dali", on_bad_image="skip")
        assert sorted({int(i) for batch in found for i in batch["unreadable"]}) == [-1, 3]
        assert not any(3 in batch["index"] for batch in found)
