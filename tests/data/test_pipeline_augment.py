"""train/data/pipeline.py: augmentation is a function of seed, epoch and index."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.data.test_pipeline import N, batches, column, noise
from train.config import AugmentConfig
from train.data.philox import generator
from train.data.sources import ArraySource, Source

# --- augmentation --------------------------------------------------------------------------------


def views(
    source: Source, size: int, epochs: Sequence[int], **options
) -> dict[tuple[int, int], bytes]:
    """(epoch, index) -> pixels."""
    count = len(source)
    first, last = min(epochs), max(epochs) + 1
    start, stop = first * count // size, -(-last * count // size)
    found = batches(source, size, start, stop, **options)
    indices, pixels = column(found, "index"), column(found, "image")
    places = range(start * size, start * size + len(indices))
    seen = zip(places, indices, pixels, strict=True)
    return {
        (place // count, int(i)): x.tobytes() for place, i, x in seen if place // count in epochs
    }


SEEDS = [0, 7, 2**31 - 1, 2**31, 2**32 - 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reused_generator_is_as_good_as_new(seed):
    for epoch, index in ((0, 0), (3, 17), (2**31, 2**40)):
        fresh = np.random.Generator(
            np.random.Philox(key=np.array([seed << 32 | epoch, index], np.uint64))
        )
        found = generator(seed, epoch, index)
        found.random(3, np.float32)  # leaves half a random word in the buffer
        found = generator(seed, epoch, index)
        assert found.random(5).tolist() == fresh.random(5).tolist()
        assert found.integers(0, 9, 7).tolist() == fresh.integers(0, 9, 7).tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("crop", ["pad", "random_resized"])
def test_augmentation_is_a_function_of_seed_epoch_and_index(seed, crop):
    source, augment = noise(size=8), AugmentConfig(crop=crop, pad=2)
    one = views(source, 4, [0, 1, 2], seed=seed, augment=augment)
    assert len(one) == 3 * N
    # the position in the stream and the other examples of the batch have no effect
    assert views(source, 6, [0, 1, 2], seed=seed, augment=augment) == one
    some = views(source, 10, [2], seed=seed, augment=augment)
    assert some == {key: view for key, view in one.items() if key[0] == 2}


@pytest.mark.parametrize("seed", SEEDS)
def test_views_differ_between_epochs(seed):
    source = noise()
    seen = views(source, N, range(10), seed=seed)
    # 10 draws of 50 views have 9.1 different ones on average, and 182 for 20 examples
    different = sum(len({seen[epoch, i] for epoch in range(10)}) for i in range(N))
    assert 160 < different < 200


def test_views_differ_between_seeds():
    source = noise()
    one, other = (views(source, N, range(5), seed=seed) for seed in (0, 1))
    # one in 50 agrees by chance: 2 of 100
    assert sum(one[key] == other[key] for key in one) < 10


@pytest.mark.parametrize("seed", SEEDS)
def test_views_differ_between_examples(seed):
    pixels = np.repeat(noise(1).images, N, axis=0)  # one image, twenty times
    source = ArraySource(pixels, np.zeros(N, int), ["all"], "test")
    seen = views(source, N, [0], seed=seed)
    assert len(set(seen.values())) > 10  # 16.6 on average


def test_all_views_are_drawn_equally_often():
    pixels = np.repeat(noise(1).images, N, axis=0)
    source = ArraySource(pixels, np.zeros(N, int), ["all"], "test")
    seen = list(views(source, N, range(50)).values())
    counts = [seen.count(view) for view in set(seen)]
    # 1000 draws of 50 views: chi-square of 49 degrees of freedom has 49 +- 9.9
    assert len(counts) == 50
    assert sum((count - 20) ** 2 / 20 for count in counts) < 100
