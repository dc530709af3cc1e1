"""The random numbers of each example: their distribution and their independence."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from train.config import AugmentConfig, DataConfig
from train.data.images.draws import pad_offsets, sample_crop
from train.data.on_device import _crop_params
from train.data.philox import generator
from train.data.sources import open_splits

PAD = AugmentConfig(crop="pad", pad=4)
COUNT, EPOCHS = 20_000, 12


def drawn(seed: int = 0, augment: AugmentConfig = PAD) -> np.ndarray:
    """int32 [epochs, examples, 3]: top, left, mirrored."""
    epochs, indices = np.divmod(np.arange(COUNT * EPOCHS), COUNT)
    return _crop_params(epochs, indices, augment, seed)[:, 1:].reshape(EPOCHS, COUNT, 3)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """The correlation, in standard deviations of that of independent numbers."""
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1] * math.sqrt(x.size))


def test_offsets_and_flips_are_uniform_and_independent_of_each_other():
    top, left, mirrored = drawn().reshape(-1, 3).T
    found = np.bincount((top * 9 + left) * 2 + mirrored, minlength=162)
    assert stats.chisquare(found).pvalue > 1e-3
    # of the crops that are not mirrored, one offset is moved to the next.
    biased = np.where((top == 3) & (mirrored == 0), 4, top)
    found = np.bincount((biased * 9 + left) * 2 + mirrored, minlength=162)
    assert stats.chisquare(found).pvalue < 1e-12


def test_offsets_of_every_width_are_uniform():
    words = np.random.default_rng(0).integers(0, 2**64, 40_000, np.uint64)
    for pad in (0, 1, 2, 7, 40):
        top, left = pad_offsets(words, pad).T
        for offsets in (top, left):
            found = np.bincount(offsets, minlength=2 * pad + 1)
            assert len(found) == 2 * pad + 1
            assert pad == 0 or stats.chisquare(found).pvalue > 1e-3
    assert pad_offsets(np.array([0, 2**64 - 1], np.uint64), 4).tolist() == [[0, 0], [8, 8]]


def test_draws_are_independent_of_index_epoch_and_seed():
    found, other = drawn(0), drawn(1)
    pairs = {
        "next index": (found[:, :-1], found[:, 1:]),
        "index after the next": (found[:, :-2], found[:, 2:]),
        "next epoch": (found[:-1], found[1:]),
        "next seed": (found, other),
        "the same place in the next epoch": (found[:-1, 1:], found[1:, :-1]),
    }
    for name, (here, there) in pairs.items():
        for i, j in itertools.product(range(3), repeat=2):
            assert abs(correlation(here[..., i], there[..., j])) < 4, (name, i, j)
    for i, j in itertools.combinations(range(3), 2):
        assert abs(correlation(found[..., i], found[..., j])) < 4
    trend = np.broadcast_to(np.arange(COUNT), (EPOCHS, COUNT))
    for i in range(3):
        assert abs(correlation(found[..., i], trend)) < 4
        assert abs(correlation(found[..., i], trend % 2)) < 4


def test_views_of_an_example_do_not_repeat():
    """Of 162 views: in twelve epochs, 1 - exp(-66 / 162) of the examples have two equal views."""
    codes = drawn() @ [18, 2, 1]
    repeated = np.mean([len(set(views)) < EPOCHS for views in codes.T])
    expected = 1 - math.prod(1 - k / 162 for k in range(EPOCHS))
    assert abs(repeated - expected) < 4 * math.sqrt(expected * (1 - expected) / COUNT)


# --- crops, beside the definition of torchvision's RandomResizedCrop ------------------------------


def definition(height: int, width: int, augment: AugmentConfig, side: int = 600) -> np.ndarray:
    """float64 [N, 2]: height and width of a candidate that fits, for a fine grid of its two draws
    (share of the area, logarithm of the aspect ratio), and NaN where it does not."""
    u = (np.arange(side) + 0.5) / side
    (small, large), (low, high) = augment.area, np.log(augment.aspect)
    area = height * width * (small + (large - small) * u[:, None])
    aspect = np.exp(low + (high - low) * u[None])
    h, w = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (h <= height) & (w <= width)
    return np.where(fits, [h, w], np.nan).reshape(2, -1).T


@pytest.mark.parametrize(
    "shape, augment",
    [
        ((300, 400), AugmentConfig()),
        ((375, 500), AugmentConfig(area=(0.25, 1.0))),
        ((120, 100), AugmentConfig(area=(0.08, 0.5), aspect=(0.5, 2.0))),
        ((60, 480), AugmentConfig(aspect=(0.2, 5.0))),
        ((64, 200), AugmentConfig(area=(0.4, 1.0))),  # most candidates do not fit
    ],
)
def test_crops_are_as_torchvision_defines_them(shape, augment):
    boxes = np.array([sample_crop(*shape, augment, generator(1, 0, i)) for i in range(6000)])
    top, left, height, width = boxes.T
    candidates = definition(*shape, augment)
    good = candidates[~np.isnan(candidates[:, 0])]
    fallback = (1 - len(good) / len(candidates)) ** 10
    # torchvision's central crop, where ten candidates do not fit
    ratio = shape[1] / shape[0]
    low, high = augment.aspect
    central = (
        min(shape[0], round(shape[1] / low)) if ratio < low else shape[0],
        min(shape[1], round(shape[0] * high)) if ratio > high else shape[1],
    )
    is_central = (height == central[0]) & (width == central[1])
    if fallback > 0.01:
        share = is_central.mean()
        assert abs(share - fallback) < 5 * math.sqrt(fallback / 6000)
    keep = ~is_central if fallback > 1e-6 else np.ones(6000, bool)
    for expected, found in zip(
        (good[:, 0] * good[:, 1], np.log(good[:, 1] / good[:, 0])),
        (height * width, np.log(width / height)),
        strict=True,
    ):
        edges = np.unique(np.quantile(expected, np.linspace(0, 1, 13)[1:-1]))
        share = np.bincount(np.digitize(expected, edges), minlength=len(edges) + 1) / len(good)
        counts = np.bincount(np.digitize(found[keep], edges), minlength=len(edges) + 1)
        assert stats.chisquare(counts, share * keep.sum()).pvalue > 1e-3
    for start, room in ((top, shape[0] - height), (left, shape[1] - width)):
        inner = keep & (room > 0)
        room, start = room[inner], start[inner]
        assert (start >= 0).all() and (start <= room).all()
        for edge in (start == 0, start == room):  # both as often as any other offset
            chance = 1 / (room + 1)
            assert abs(edge.sum() - chance.sum()) < 4.5 * math.sqrt((chance * (1 - chance)).sum())
        z = (start - room / 2) / np.sqrt(((room + 1.0) ** 2 - 1) / 12)
        assert abs(z.sum()) < 4 * math.sqrt(len(z)) and abs(z.var() - 1) < 0.1


def test_crops_are_independent_of_index_and_epoch():
    augment = AugmentConfig()
    boxes = np.array(
        [
            [sample_crop(300, 400, augment, generator(0, e, i)) for i in range(1500)]
            for e in range(4)
        ]
    ).astype(float)
    area = np.log(boxes[..., 2] * boxes[..., 3])
    aspect = np.log(boxes[..., 3] / boxes[..., 2])
    place = boxes[..., 0] / np.maximum(300 - boxes[..., 2], 1)
    for x, y in itertools.product((area, aspect, place), repeat=2):
        assert abs(correlation(x[:, :-1], y[:, 1:])) < 4
        assert abs(correlation(x[:-1], y[1:])) < 4


def test_the_flip_is_independent_of_the_crop():
    found = []
    for i in range(6000):
        rng = generator(2, 0, i)
        box = sample_crop(300, 400, AugmentConfig(), rng)
        found.append((*box, rng.random() < 0.5))
    top, left, height, width, mirrored = np.array(found, float).T
    for x in (top, left, height * width, width / height):
        assert abs(correlation(x, mirrored)) < 4
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / math.sqrt(6000)


def test_synthetic_labels_are_uniform_and_the_splits_differ():
    data = DataConfig(name="synthetic", image_size=4, classes=10, examples=4000)
    labels = [np.array([split[i].label for i in range(4000)]) for split in open_splits(data)]
    for each in labels:
        assert stats.chisquare(np.bincount(each, minlength=10)).pvalue > 1e-3
        assert abs(correlation(each[:-1], each[1:])) < 4
    assert abs(correlation(*labels)) < 4
