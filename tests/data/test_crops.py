"""train/data/images/crops.py: random resized crops, flips, padded crops."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.test_images import LIMIT, difference, encode, exif, noise, rng, smooth
from train.config import AugmentConfig
from train.data.images.crops import eval_image, train_image
from train.data.images.decode import decode
from train.data.images.draws import sample_crop
from train.data.images.resize import resize_crop

# --- random resized crop -------------------------------------------------------------------------


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose channels are the coordinates of each pixel: y and x in 0..255, and 77."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.full_like(x, 77)], axis=-1).astype(np.uint8)


def test_random_resized_samples_area_and_aspect():
    augment = AugmentConfig(crop="random_resized", area=(0.1, 0.6), aspect=(0.5, 2.0))
    generator = rng(1)
    boxes = np.array([sample_crop(1000, 1000, augment, generator) for _ in range(2000)])
    top, left, height, width = boxes.T
    assert (boxes >= 0).all() and (top + height <= 1000).all() and (left + width <= 1000).all()
    area, aspect = height * width / 1e6, np.log(width / height)
    assert 0.098 < area.min() < 0.11 and 0.57 < area.max() < 0.602
    assert abs(area.mean() - 0.35) < 0.02  # uniform in area ...
    assert abs(aspect).max() < np.log(2) + 0.01 and abs(aspect.mean()) < 0.03
    assert abs(aspect.std() - np.log(4) / np.sqrt(12)) < 0.03  # ... and in the log of the aspect
    for start, room in ((top, 1000 - height), (left, 1000 - width)):
        assert abs((start / np.maximum(room, 1)).mean() - 0.5) < 0.03


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(100, 1000, (0, 433, 100, 133)), (900, 30, (430, 0, 40, 30))]
)
def test_random_resized_falls_back_to_the_centre(height, width, expected):
    augment = AugmentConfig(crop="random_resized", area=(0.9, 1.0))
    assert sample_crop(height, width, augment, rng()) == expected


def test_random_resized_cuts_what_it_sampled():
    pixels = coordinates(200, 250)
    augment = AugmentConfig(crop="random_resized", area=(0.1, 0.5), flip=False)
    for seed in range(20):
        view = train_image(pixels, 16, augment, rng(seed), max_pixels=LIMIT).astype(float)
        top, left, height, width = sample_crop(200, 250, augment, rng(seed))
        assert (view[..., 2] == 77).all()
        y = top + (np.arange(16) + 0.5) * height / 16 - 0.5
        x = left + (np.arange(16) + 0.5) * width / 16 - 0.5
        np.testing.assert_allclose(view[..., 0], np.repeat(y[:, None], 16, axis=1), atol=0.6)
        np.testing.assert_allclose(view[..., 1], np.repeat(x[None], 16, axis=0), atol=0.6)


def test_random_resized_of_a_turned_jpeg_is_sampled_upright():
    data = encode(smooth(300, 600), "JPEG", quality=95, exif=exif(8))
    upright = decode(data, max_pixels=LIMIT)
    augment = AugmentConfig(crop="random_resized", area=(0.2, 0.5))
    for seed in range(5):
        turned = train_image(data, 50, augment, rng(seed), max_pixels=LIMIT)
        expected = train_image(upright, 50, augment, rng(seed), max_pixels=LIMIT)
        assert difference(turned, expected) < 3  # the crop may move by half a scaled pixel


def pillow_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear interpolation."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("shrink", [1.05, 1.3, 1.6, 2.0, 2.2])
def test_a_crop_is_resized_as_pillow_does_and_does_not_alias(shrink):
    """Noise is the worst case: aliasing does not reduce it."""
    pixels = noise(round(100 * shrink), round(100 * shrink))
    expected = pillow_resize(pixels, 100).astype(float)
    found = resize_crop(pixels, 100).astype(float)
    plain = cv2.resize(pixels, (100, 100), interpolation=cv2.INTER_LINEAR).astype(float)
    inner = (slice(2, -2), slice(2, -2))
    error, aliased = (np.square(x - expected)[inner].mean() for x in (found, plain))
    assert error < (0.6 if shrink < 1.2 else 0.4) * aliased
    assert 0.95 < found[inner].std() / expected[inner].std() < 1.12
    if shrink == 2:
        assert np.abs(found - expected)[inner].max() <= 1


@pytest.mark.parametrize("shape", [(250, 180, 3), (120, 300, 1), (700, 400, 3), (60, 50, 1)])
def test_resized_into_place(shape):
    pixels = noise(*shape)
    batch = np.zeros((3, 100, 100, shape[2]), np.uint8)
    assert resize_crop(pixels, 100, batch[1]).base is batch
    np.testing.assert_array_equal(batch[1], resize_crop(pixels, 100))
    assert batch[1].any() and not batch[0].any() and not batch[2].any()


@pytest.mark.parametrize("crop", ["random_resized", "pad", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_is_written_into_its_place(crop, channels):
    pixels, augment = noise(40, 50, channels), AugmentConfig(crop=crop)
    for seed in range(4):
        batch = np.zeros((3, 24, 24, channels), np.uint8)
        view = train_image(pixels, 24, augment, rng(seed), max_pixels=LIMIT, out=batch[1])
        expected = train_image(pixels, 24, augment, rng(seed), max_pixels=LIMIT)
        np.testing.assert_array_equal(batch[1], expected)
        assert view.base is batch and not batch[0].any() and not batch[2].any()


@pytest.mark.parametrize("crop", ["random_resized", "pad", "none"])
@pytest.mark.parametrize("shape", [(40, 30), (24, 24), (1, 1), (7, 90), (1, 3000), (3000, 1)])
def test_every_crop_of_every_shape(crop, shape):
    augment = AugmentConfig(crop=crop, flip=True)
    for channels in (1, 3):
        pixels = noise(*shape, channels)
        before = pixels.copy()
        views = [train_image(pixels, 24, augment, rng(5), max_pixels=LIMIT) for _ in range(2)]
        np.testing.assert_array_equal(*views)  # the same seed, the same view
        assert views[0].shape == (24, 24, channels) and views[0].dtype == np.uint8
        assert views[0].flags.c_contiguous
        np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("crop", ["random_resized", "pad"])
def test_views_differ_by_seed_and_draw_the_same_number(crop):
    augment = AugmentConfig(crop=crop)
    seen, states = set(), set()
    for shape in ((32, 32), (5, 70), (1, 1)):
        for data in (noise(*shape), encode(noise(*shape), "JPEG"), encode(noise(*shape), "PNG")):
            generator = rng(9)
            train_image(data, 32, augment, generator, max_pixels=LIMIT)
            states.add(generator.random())
    for seed in range(20):
        seen.add(train_image(noise(32, 32), 32, augment, rng(seed), max_pixels=LIMIT).tobytes())
    assert len(states) == 1
    assert len(seen) >= 18


def test_wrong_arrays_are_refused():
    for array in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="must be uint8"):
            eval_image(array, 4, 1.0, max_pixels=LIMIT)


# --- flip, pad, none -----------------------------------------------------------------------------


def test_flip_is_horizontal_and_half_of_the_time():
    pixels = noise(8, 8)
    flips = 0
    for seed in range(400):
        augment = AugmentConfig(crop="none", flip=True)
        view = train_image(pixels, 8, augment, rng(seed), max_pixels=LIMIT)
        if not np.array_equal(view, pixels):
            np.testing.assert_array_equal(view, pixels[:, ::-1])
            flips += 1
    assert 160 < flips < 240
    augment = AugmentConfig(crop="none", flip=False)
    for seed in range(20):
        view = train_image(pixels, 8, augment, rng(seed), max_pixels=LIMIT)
        np.testing.assert_array_equal(view, pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_pad_crop_is_a_shift_that_fills_with_zeros(channels):
    pixels = noise(12, 12, channels) // 2 + 1  # without zeros
    padded = np.zeros((18, 18, channels), np.uint8)
    padded[3:15, 3:15] = pixels
    windows = {padded[y : y + 12, x : x + 12].tobytes(): (y, x) for y in range(7) for x in range(7)}
    augment = AugmentConfig(crop="pad", pad=3, flip=False)
    seen = set()
    for seed in range(600):
        view = train_image(pixels, 12, augment, rng(seed), max_pixels=LIMIT)
        seen.add(windows[view.tobytes()])
    assert len(seen) == 49


def test_crop_none_is_the_evaluation_view():
    pixels = noise(50, 40)
    augment = AugmentConfig(crop="none", flip=False)
    view = train_image(pixels, 24, augment, rng(), max_pixels=LIMIT)
    np.testing.assert_array_equal(view, eval_image(pixels, 24, 1.0, max_pixels=LIMIT))
