"""A folder of real photographs: damaged files, unusual colour modes, rotated images."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.runs import MODEL, resnet_jax
from train.config import DataConfig
from train.data.images.crops import eval_image
from train.data.sources import open_splits

EACH = 12
BAD = ("cat/truncated.jpg", "dog/text.jpg")
ODD = ("cat/cmyk.jpg", "cat/deep.png", "dog/alpha.png", "dog/rotated.jpg")
ROTATED_RIGHT = 6  # Exif orientation: turn by 90 degrees clockwise to view


@pytest.fixture(scope="module")
def photos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen photographs of each class and split, and six problematic files."""
    root = tmp_path_factory.mktemp("photos") / "cats_dogs"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            files = sorted((shared_data / "cats_dogs" / split / name).iterdir())[:EACH]
            (root / split / name).mkdir(parents=True)
            for file in files:
                shutil.copy(file, root / split / name)
    train = root / "train"
    original = sorted((train / "cat").iterdir())[0]
    data, image = original.read_bytes(), Image.open(original).convert("RGB")
    (train / BAD[0]).write_bytes(data[: len(data) // 2])
    (train / BAD[1]).write_text("this is not a photograph\n")
    image.convert("CMYK").save(train / ODD[0], quality=95)
    deep = np.asarray(image)[..., ::-1].astype(np.uint16) * 257
    cv2.imwrite(str(train / ODD[1]), deep)
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.new("L", image.size, 255))
    alpha.save(train / ODD[2])
    exif = Image.Exif()
    exif[0x0112] = ROTATED_RIGHT
    image.transpose(Image.Transpose.ROTATE_90).save(train / ODD[3], quality=95, exif=exif)
    return root


def run(photos: Path, workdir: Path, *options: str):
    args = ("train", "folder", "--data.dir", str(photos), "--workdir", str(workdir), *MODEL)
    small = ("--model.stem", "3x3", "--data.image_size", "32", "--batch_size", "16")
    return resnet_jax(*args, *small, "--duration", "3ep", "--eval.every", "1ep", *options)


def test_a_bad_file_is_named(photos, tmp_path):
    done = run(photos, tmp_path / "run")
    assert done.returncode == 2
    assert any(f"error: train/{bad}: " in done.stderr for bad in BAD), done.stderr
    assert "--data.on_bad_image skip" in done.stderr and "Traceback" not in done.stderr


def test_bad_files_are_left_out_counted_and_named(photos, tmp_path):
    done = run(photos, tmp_path / "run", "--data.on_bad_image", "skip")
    assert done.returncode == 0, done.stderr
    assert "skipped 2 unreadable training images: " in done.stdout
    assert all(f"train/{bad}" in done.stdout for bad in BAD)
    assert f"on {2 * EACH} evaluation images" in done.stdout


@pytest.mark.parametrize("odd", ODD)
def test_odd_files_become_the_photograph_that_they_are(photos, odd):
    source = open_splits(DataConfig(name="folder", dir=str(photos), eval_split="val")).train
    names = {source.name(i): i for i in range(len(source))}
    original = min(name for name in names if name.startswith("train/cat/cat."))
    pixels = [
        eval_image(source[names[name]].image, 64, 0.875, max_pixels=10**8).astype(int)
        for name in (original, f"train/{odd}")
    ]
    # CMYK and JPEG are lossy; an inversion, a swapped channel or a rotation would give 30 or more
    assert np.abs(pixels[0] - pixels[1]).mean() < 3
