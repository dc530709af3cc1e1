"""train/learn/prepare.py: normalisation and targets in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.config import MixConfig
from train.learn.prepare import make_prepare

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepared(image, label=(0,), *, classes=4, mean=MEAN, std=STD, smoothing=0.0, train=True):
    prepare = make_prepare(classes, mean, std, MixConfig(label_smoothing=smoothing))
    batch = {"image": jnp.asarray(image, jnp.uint8), "label": jnp.asarray(label, jnp.int32)}
    return jax.tree.map(np.asarray, prepare(batch, train=train))


@pytest.mark.parametrize("train", [True, False])
def test_every_value_of_every_channel_is_normalised(train):
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    image = np.concatenate([values, 255 - values, values // 2], axis=-1)
    found = prepared(image, train=train)["image"]
    expected = (image / 255 - np.float64(MEAN)) / np.float64(STD)
    assert found.dtype == np.float32 and found.shape == (1, 16, 16, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_black_and_white_by_hand():
    pixels = np.array([[[[0, 0, 0], [255, 255, 255]]]])
    found = prepared(pixels, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))["image"]
    np.testing.assert_allclose(found[0, 0], [[-1, -1, 0], [1, 3, 0.5]], rtol=1e-6)


def test_one_channel_is_repeated_to_three():
    grey = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 1), np.uint8)
    found = prepared(grey, (0, 1))["image"]
    assert found.shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(found, prepared(np.repeat(grey, 3, -1), (0, 1))["image"])
    expected = (grey / 255 - np.float64(MEAN)) / np.float64(STD)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_one_value_applies_to_all_channels(channels):
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 4, channels), np.uint8)
    one = prepared(image, (0, 1), mean=(0.3,), std=(0.4,))["image"]
    three = prepared(image, (0, 1), mean=(0.3,) * 3, std=(0.4,) * 3)["image"]
    assert one.shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(one, three)


def test_target_is_one_hot():
    found = prepared(np.zeros((3, 1, 1, 3)), (2, 0, 3))["target"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.eye(4)[[2, 0, 3]])


@pytest.mark.parametrize("classes, smoothing", [(4, 0.1), (10, 0.1), (2, 0.5), (1000, 0.1)])
def test_smoothing_spreads_over_all_classes(classes, smoothing):
    found = prepared(np.zeros((2, 1, 1, 3)), (1, 0), classes=classes, smoothing=smoothing)
    target = found["target"]
    # the label also gets its share of s (Szegedy 2016, section 7)
    label, others = 1 - smoothing + smoothing / classes, smoothing / classes
    expected = np.full((2, classes), others)
    expected[[0, 1], [1, 0]] = label
    np.testing.assert_allclose(target, expected, rtol=1e-6)
    np.testing.assert_allclose(target.sum(-1), 1, rtol=1e-5)
    assert target.dtype == np.float32


def test_evaluation_is_not_smoothed():
    options = {"label": (2, 0), "smoothing": 0.3}
    target = prepared(np.zeros((2, 1, 1, 3)), **options, train=False)["target"]
    np.testing.assert_array_equal(target, np.eye(4)[[2, 0]])
    assert not np.array_equal(prepared(np.zeros((2, 1, 1, 3)), **options)["target"], target)


def test_the_rest_of_the_batch_is_kept():
    prepare = make_prepare(4, MEAN, STD, MixConfig())
    batch = {
        "image": jnp.full((2, 1, 1, 3), 7, jnp.uint8),
        "label": jnp.array([3, 1], jnp.int32),
        "mask": jnp.array([1.0, 0.0]),
    }
    found = prepare(batch, train=True)
    assert set(found) == {"image", "label", "mask", "target"}
    assert found["label"].tolist() == [3, 1] and found["mask"].tolist() == [1.0, 0.0]
    assert (
        batch["image"].dtype == jnp.uint8 and "target" not in batch
    )  # the input batch is unchanged
