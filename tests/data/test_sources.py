"""train/data/sources: the digits and synthetic data, exactly."""

import dataclasses

import numpy as np
import pytest

from tests.examples import contents, refusal, same
from train.config import DataConfig, RunError
from train.data.sources import open_splits


@pytest.fixture(scope="module")
def original() -> tuple[np.ndarray, np.ndarray]:
    """The digits as scikit-learn reads them, scaled from 0..16 to 0..255."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # 255/16 of an integer below 17 is half-way between two integers only for 8: 127.5
    return np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1), labels


def test_digits_are_all_there_once_and_pixel_for_pixel(original):
    train, test = contents(open_splits(DataConfig(name="digits")))
    assert (len(train), len(test)) == (1438, 359)
    for image, label in [train[0], test[-1]]:
        assert image.shape == (8, 8, 1) and image.dtype == np.uint8 and type(label) is int
    expected = sorted((x.tobytes(), int(y)) for x, y in zip(*original, strict=True))
    assert len(set(expected)) == 1797  # all differ, so a repeated image would be found
    assert sorted((x.tobytes(), y) for x, y in train + test) == expected


def test_digits_keep_their_order_within_a_part(original):
    place = {x.tobytes(): i for i, x in enumerate(original[0])}
    for part in contents(open_splits(DataConfig(name="digits"))):
        places = [place[image.tobytes()] for image, _ in part]
        assert places == sorted(places)


def test_digits_names():
    splits = open_splits(DataConfig(name="digits"))
    assert list(splits.train.class_names) == list("0123456789") == list(splits.eval.class_names)
    assert (splits.train.name(17), splits.eval.name(3)) == ("train[17]", "test[3]")


def test_held_out_share_is_chosen_by_split_seed_alone():
    base = DataConfig(name="digits")
    first = contents(open_splits(base))
    again = dataclasses.replace(
        base,
        image_size=8,
        threads=0,
        prefetch=7,
        on_bad_image="skip",
        examples=5,
        classes=3,
        mean=(0.5,),
        max_pixels=1,
    )
    np.random.seed(5)  # the global generator has no effect
    for a, b in zip(first, contents(open_splits(again)), strict=True):
        assert same(a, b)
    other = contents(open_splits(dataclasses.replace(base, split_seed=1)))
    assert len(other[1]) == 359
    held, held_too = ({x.tobytes() for x, _ in part} for part in (first[1], other[1]))
    # 20 % of 20 % are held out by both: 71.7 +- 7 if the two draws are independent
    assert 40 < len(held & held_too) < 105


@pytest.mark.parametrize("fraction, held", [(0.2, 359), (0.5, 898), (0.1, 180), (0.999, 1795)])
def test_held_out_share_is_as_large_as_asked(fraction, held):
    splits = open_splits(DataConfig(name="digits", eval_fraction=fraction))
    assert (len(splits.train), len(splits.eval)) == (1797 - held, held)


def test_share_that_leaves_nothing_is_refused():
    message = refusal(DataConfig(name="digits", eval_fraction=0.0001))
    what = "data 'digits': split 'test' has no examples"
    assert message == f"{what} (data.eval_fraction 0.0001 of 1,797)"


def test_synthetic_images_are_a_function_of_split_and_index():
    config = DataConfig(name="synthetic", examples=64, classes=7, image_size=5)
    train, test = contents(open_splits(config))
    assert len(train) == len(test) == 64
    assert train[0].image.shape == (5, 5, 3) and train[0].image.dtype == np.uint8
    again = contents(open_splits(dataclasses.replace(config, split_seed=9, threads=0)))
    assert same(train, again[0]) and same(test, again[1])
    assert len({x.tobytes() for x, _ in train + test}) == 128  # no two alike, in and across splits
    assert {y for _, y in train} == set(range(7))
    pixels = np.stack([x for x, _ in train])
    assert pixels.min() == 0 and pixels.max() == 255 and abs(pixels.mean() - 127.5) < 5
    splits = open_splits(config)
    assert list(splits.train.class_names) == list("0123456")
    assert (splits.train.name(3), splits.eval.name(3)) == ("train[3]", "test[3]")


def test_data_on_a_disk_that_fails(tmp_path):
    (tmp_path / "data.npz").symlink_to("/proc/self/mem")
    config = DataConfig(name="npz", dir=str(tmp_path / "data.npz"), retries=1)
    with pytest.raises(RunError, match=r"data\.npz: .*Input/output error.* tried 2 times"):
        open_splits(config)


@pytest.mark.parametrize("name", ["folder", "npz"])
def test_data_that_needs_a_path_says_so(name):
    for nothing in (None, ""):
        message = refusal(DataConfig(name=name, dir=nothing))
        assert "data.dir" in message and repr(name) in message and "--data.dir PATH" in message
