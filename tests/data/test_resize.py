"""train/data/images/resize.py: long images, and crops with very different scales per axis."""

import math

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.test_images import noise, smooth
from train.data.images import resize
from train.data.images.crops import eval_image
from train.data.images.resize import resize_crop

METHODS = ("bilinear", "bicubic")


def whole(pixels: np.ndarray, size: int, crop_fraction: float, method: str) -> np.ndarray:
    """torchvision's Resize and CenterCrop of a PIL image: the whole is resized, then cropped."""
    height, width = pixels.shape[:2]
    short, side = math.floor(size / crop_fraction), min(height, width)
    resized = (int(short * width / side), int(short * height / side))
    picture = Image.fromarray(pixels).resize(resized, Image.Resampling[method.upper()])
    left, top = (round((n - size) / 2.0) for n in resized)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shape, size, crop_fraction",
    [
        ((90, 2000), 160, 0.95),
        ((2000, 90), 160, 0.95),
        ((3, 501), 32, 0.95),
        ((501, 3), 32, 1.0),
        ((1, 257), 32, 0.875),
        ((20_000, 7), 64, 0.9),
        ((300, 3000), 32, 0.9),
    ],
    ids=str,
)
def test_long_images_are_resized_as_a_whole(shape, size, crop_fraction, method):
    pixels = noise(*shape)
    found = eval_image(pixels, size, crop_fraction, max_pixels=10**7, interpolation=method)
    np.testing.assert_array_equal(found, whole(pixels, size, crop_fraction, method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(3, 1000), (1000, 3), (1, 700), (100, 20_000), (9000, 30)])
def test_strips_of_which_only_the_centre_is_resized(shape, method, monkeypatch):
    """As for images whose resized whole would take gigabytes."""
    monkeypatch.setattr(resize, "_MAX_RESIZED", 0)
    for size in (33, 64):
        pixels = noise(*shape)
        found = eval_image(pixels, size, 0.875, max_pixels=10**7, interpolation=method)
        wrong = np.abs(found.astype(int) - whole(pixels, size, 0.875, method))
        assert wrong.max() <= 1 and wrong.mean() < 0.03


def test_a_strip_shows_its_centre():
    """A gradient along a strip whose resized whole would have 256 x 2,560,000 pixels."""
    ramp = np.clip(np.arange(10_000) - 4_872, 0, 255).astype(np.uint8)
    for shape in ((1, 10_000, 1), (10_000, 1, 1)):
        view = eval_image(ramp.reshape(shape), 224, 0.875, max_pixels=10**7)
        along = np.unique(view)
        # A pixel is 256 wide, so that the halves of 4999 and 5000 are seen: 127 and 128.
        assert along.tolist() == [127, 128]
        assert 0.4 < (view == 127).mean() < 0.6


# --- crops ---------------------------------------------------------------------------------------

SHRINKS = (0.6, 0.9, 1.05, 1.5, 2.0, 2.2, 2.5, 3, 5)
SIZE = 96


def error(pixels: np.ndarray, resize) -> float:
    """The error of the inner part against Pillow's antialiased filter, in standard deviations."""
    picture = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    expected = np.asarray(picture).astype(float)
    wrong = resize(pixels, SIZE).astype(float) - expected
    return float(np.sqrt(np.square(wrong[2:-2, 2:-2]).mean()) / expected.std())


@pytest.mark.parametrize("down", SHRINKS)
@pytest.mark.parametrize("across", SHRINKS)
def test_no_axis_aliases(down, across):
    """Noise: aliasing would give an error of 1 or more, as an unrelated image does."""
    pixels = noise(round(down * SIZE), round(across * SIZE))
    limit = 0.3 if max(down, across) < 2.3 or min(down, across) < 1 else 0.85
    assert error(pixels, resize_crop) < limit


@pytest.mark.parametrize("shape", [(60, 480), (480, 60), (90, 300), (95, 1000)])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_axis_shrinks_alone(shape, channels):
    """OpenCV disables its area means if an axis is enlarged, which gave errors of 0.9 to 2.1."""

    def means(pixels: np.ndarray, size: int) -> np.ndarray:
        return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)

    pixels = noise(*shape)
    assert error(pixels, means) > 0.9
    assert error(pixels, resize_crop) < 0.3
    view = resize_crop(np.ascontiguousarray(pixels[..., :channels]), SIZE)
    np.testing.assert_array_equal(view, resize_crop(pixels, SIZE)[..., :channels])


def test_a_pattern_that_would_alias_becomes_grey():
    """Alternating columns must disappear at a fifth of the width."""
    pixels = np.zeros((60, 480, 3), np.uint8)
    pixels[:, ::2] = 255
    assert np.ptp(resize_crop(pixels, SIZE)[:, 2:-2].astype(int)) <= 60
    assert abs(resize_crop(smooth(60, 480), SIZE).mean() - smooth(60, 480).mean()) < 1
