"""train/data/images/crops.py: the evaluation view."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.test_images import LIMIT, PHOTOS, difference, encode, noise, smooth
from train.data.images.crops import eval_image

# --- evaluation ----------------------------------------------------------------------------------


def pillow_eval(data: bytes, size: int, crop_fraction: float) -> np.ndarray:
    """Resize(int(size / crop_fraction)) and CenterCrop(size) as torchvision does them to PIL."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = picture.size
    target = int(size / crop_fraction)
    if width <= height:
        new_width, new_height = target, int(target * height / width)
    else:
        new_width, new_height = int(target * width / height), target
    picture = picture.resize((new_width, new_height), Image.Resampling.BILINEAR)
    top, left = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("shape", [(70, 101), (101, 70), (64, 64), (20, 33), (56, 56), (33, 250)])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.95])
def test_eval_equals_pillow(shape, crop_fraction):
    data = encode(noise(*shape), "PNG")
    view = eval_image(data, 56, crop_fraction, max_pixels=LIMIT)
    assert view.shape == (56, 56, 3) and view.flags.c_contiguous
    np.testing.assert_array_equal(view, pillow_eval(data, 56, crop_fraction))
    data = encode(noise(*shape), "JPEG")
    view = eval_image(data, 56, crop_fraction, max_pixels=LIMIT)
    assert difference(view, pillow_eval(data, 56, crop_fraction)) <= 0.5


def test_eval_of_one_channel_and_of_the_right_size():
    grey = noise(40, 60, 1)
    view = eval_image(grey, 32, 0.8, max_pixels=LIMIT)
    assert view.shape == (32, 32, 1)
    three = eval_image(np.repeat(grey, 3, axis=2), 32, 0.8, max_pixels=LIMIT)
    np.testing.assert_array_equal(view[..., 0], three[..., 1])
    np.testing.assert_array_equal(eval_image(grey[:40, :40], 40, 1.0, max_pixels=1), grey[:, :40])


def test_eval_of_a_strip_does_not_explode():
    view = eval_image(smooth(2, 200_000), 224, 0.875, max_pixels=LIMIT)
    assert view.shape == (224, 224, 3)


def test_eval_of_photographs_equals_pillow():
    folder = PHOTOS / "imagenet_samples"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder}")
    for path in sorted(folder.iterdir())[::10]:
        data = path.read_bytes()
        view = eval_image(data, 224, 0.875, max_pixels=LIMIT)
        assert difference(view, pillow_eval(data, 224, 0.875)) <= 0.5, path.name
