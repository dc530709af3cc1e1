"""train/data/order.py: every epoch is a uniform permutation, and a run keeps its order.

Each statistic gives the probability, two-sided, of what is seen if every permutation is equally
likely. Version 1 of the order fails them, which shows that they can fail.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from tests.data.test_pipeline import DATA, PLAIN, assert_same, batches, column, noise
from tests.runs import tiny
from train.config.serialize import to_json
from train.data.on_device import crop_params
from train.data.order import batch_positions, example_indices, examples_at
from train.run.directory import read_config
from train.run.resume import resumed_config

BATCH = 32

# (seed, epoch): the most sorted ones of the old order, of seeds 0..29 and epochs 0..86.
SORTED = {
    10: [(22, 68), (22, 54), (22, 42), (20, 33), (14, 50), (10, 83), (8, 70), (2, 56)],
    400: [(28, 3), (22, 54), (8, 70), (10, 83)],
    1438: [(22, 54), (10, 83), (28, 3), (8, 70), (14, 50)],
    50000: [(0, 0), (0, 1)],  # every epoch of this size is mixed too evenly
}
EPOCHS = {10: 600, 400: 300, 1438: 100, 50000: 20}


def draw(count: int, epochs: Sequence[tuple[int, int]], order: int) -> np.ndarray:
    """int64 [epochs, count]: the examples of each (seed, epoch), in order."""
    found = []
    for seed, epoch in epochs:
        positions = np.arange(epoch * count, (epoch + 1) * count)
        table = examples_at(count, seed, positions, order=order)
        assert (table[:, 0] == epoch).all()
        found.append(table[:, 1])
    return np.stack(found)


# --- statistics: int64 [epochs, count] -> probability ---------------------------------------------


def chance(statistic: float, freedom: float) -> float:
    return float(2 * min(stats.chi2.cdf(statistic, freedom), stats.chi2.sf(statistic, freedom)))


def table(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many examples of each sixteenth of the data (of ten, each fifth) come in each sixteenth
    of the epoch, and how many are expected."""
    count = len(order)
    cells = min(count // 2, 16)
    part = np.arange(count) * cells // count
    size = np.bincount(part)
    found = np.bincount(part * cells + part[order], minlength=cells**2).reshape(cells, cells)
    return found, np.outer(size, size) / count


def positions(orders: np.ndarray) -> float:
    """Checks each epoch for being nearly sorted, or mixed too evenly."""
    tables = [table(order) for order in orders]
    statistic = sum((np.square(found - expected) / expected).sum() for found, expected in tables)
    count, cells = orders.shape[1], len(tables[0][0])
    return chance(statistic * (count - 1) / count, len(orders) * (cells - 1) ** 2)


def positions_of_all_epochs(orders: np.ndarray) -> float:
    """Checks whether some examples come early or late in all epochs."""
    found = sum(table(order)[0] for order in orders)
    expected = table(orders[0])[1] * len(orders)
    count, cells = orders.shape[1], len(expected)
    statistic = (np.square(found - expected) / expected).sum() * (count - 1) / count
    return chance(statistic, (cells - 1) ** 2)


def standardised(orders: np.ndarray) -> np.ndarray:
    count = orders.shape[1]
    return (orders - (count - 1) / 2) / np.sqrt((count**2 - 1) / 12)


def neighbours(orders: np.ndarray) -> float:
    """The correlation of an example's number with that of those 1 to 4 places after it.

    A correlation of n values without replacement has mean -1/(n - 1); its variance over epochs is
    estimated from them, where there are enough.
    """
    x, count = standardised(orders), orders.shape[1]
    sums = np.stack(
        [(x[:, :-lag] * x[:, lag:]).sum(1) + (count - lag) / (count - 1) for lag in range(1, 5)]
    )
    scale = sums.std(1, keepdims=True) if len(orders) > 10 else np.sqrt(count)
    return chance(np.square(sums.sum(1) / np.ravel(scale) / np.sqrt(len(orders))).sum(), 4)


def successive_epochs(orders: np.ndarray) -> float:
    """The correlation of the indices at the same position of two epochs."""
    x, count = standardised(orders), orders.shape[1]
    correlation = (x[:-1] * x[1:]).mean(1) * np.sqrt(count - 1)  # of variance 1
    return float(2 * stats.norm.sf(abs(correlation.sum()) / np.sqrt(len(correlation))))


def examples_at_the_same_place(orders: np.ndarray) -> float:
    """The number of examples with the same position in two epochs: Poisson, mean 1."""
    found, expected = (orders[:-1] == orders[1:]).sum(), len(orders) - 1
    return float(
        2 * min(stats.poisson.cdf(found, expected), stats.poisson.sf(found - 1, expected), 0.5)
    )


def class_counts(orders: np.ndarray) -> float:
    """The number of examples of class 0 in each batch; the data are sorted, half of each class."""
    variances = count_variance(orders)
    if len(orders) > 10:
        z = (variances.mean() - 1) / variances.std(ddof=1) * np.sqrt(len(variances))
        return float(2 * stats.norm.sf(abs(z)))
    batches = len(orders) * (orders.shape[1] // BATCH)
    return chance(variances.mean() * batches, batches)


def count_variance(orders: np.ndarray) -> np.ndarray:
    """The variance of that number over a hypergeometric one, of each epoch: 1 on average."""
    count = orders.shape[1]
    size = min(BATCH, count // 5)
    whole, share = count // size, (count // 2) / count
    found = (orders[:, : whole * size] < count // 2).reshape(-1, whole, size).sum(-1)
    variance = size * share * (1 - share) * (count - size) / (count - 1)
    return np.square(found - size * share).mean(-1) / variance


STATISTICS: list[Callable[[np.ndarray], float]] = [
    positions,
    positions_of_all_epochs,
    neighbours,
    successive_epochs,
    examples_at_the_same_place,
    class_counts,
]


@pytest.mark.parametrize("count", EPOCHS)
def test_the_order_is_uniform(count):
    orders = draw(count, [(5, epoch) for epoch in range(EPOCHS[count])], 2)
    assert (np.sort(orders, axis=1) == np.arange(count)).all()
    found = {statistic.__name__: statistic(orders) for statistic in STATISTICS}
    assert min(found.values()) > 1e-3, found


@pytest.mark.parametrize("count", SORTED)
def test_the_old_order_was_not(count):
    """Of epochs in which the new order is uniform."""
    old, new = (draw(count, SORTED[count], order) for order in (1, 2))
    assert positions(old) < 1e-12 < 1e-3 < positions(new)


def test_seeds_are_independent():
    """The same epoch of neighbouring seeds, at every size."""
    for count, epochs in EPOCHS.items():
        orders = draw(count, [(seed, 7) for seed in range(epochs)], 2)
        assert min(statistic(orders) for statistic in STATISTICS) > 1e-3


def test_a_batch_of_a_sorted_folder_has_both_classes():
    """Among 2,610 epochs, the old order has some with nearly a single class per batch."""
    epochs = [(seed, epoch) for seed in range(30) for epoch in range(87)]
    variance = count_variance(draw(400, epochs, 2))
    assert variance.max() < 3.5 and abs(variance.mean() - 1) < 0.03
    old = draw(400, [(28, 3), (10, 83), (28, 4)], 1)
    assert (old[0, :384].reshape(12, 32) >= 200).sum(1).tolist() == [
        *(6, 7, 7, 8, 4, 5, 30, 20, 27, 23, 28, 24)
    ]
    assert (count_variance(old) > 3.5).tolist() == [True, True, False]


def test_large_sets_are_as_uneven_as_chance():
    old, new = (count_variance(draw(50000, [(0, 0), (0, 1)], order)).mean() for order in (1, 2))
    assert old < 0.6 and abs(new - 1) < 0.1


# --- where it is used ----------------------------------------------------------------------------


def test_the_order_does_not_depend_on_numpys_version():
    """Fixed results: a resume years later needs the same order."""
    found = draw(10, [(3, 0), (3, 1), (2**32 - 1, 2**31)], 2)
    assert found.tolist() == [
        [1, 5, 9, 0, 4, 7, 2, 8, 3, 6],
        [3, 0, 4, 8, 2, 7, 9, 6, 1, 5],
        [5, 9, 4, 6, 3, 2, 8, 7, 0, 1],
    ]
    assert int(examples_at(10**6, 0, np.array([17]))[0, 1]) == 250059


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "count, start, stop", [(20, 0, 0), (20, 7, 7), (7, 3, 40), (1, 0, 3), (9, 18, 27)]
)
def test_any_part_of_the_stream_is_that_of_the_whole(count, start, stop, order):
    whole = examples_at(count, 1, np.arange(60), order=order)
    found = examples_at(count, 1, np.arange(start, stop), order=order)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, whole[start:stop])
    np.testing.assert_array_equal(whole[:, 0], np.arange(60) // count)


@pytest.mark.parametrize("order", [1, 2])
def test_every_reader_keeps_to_the_version(order):
    """Host batches, crop parameters on the devices and `example_indices` agree."""
    data = dataclasses.replace(DATA, order=order)
    found = batches(noise(), 6, 0, 8, data=data, augment=PLAIN, seed=4)
    expected = draw(20, [(4, epoch) for epoch in range(3)], order).ravel()[:48]
    np.testing.assert_array_equal(column(found, "index"), expected)
    made = crop_params(20, PLAIN, seed=4, batch_size=6, start=0, stop=8, order=order)
    np.testing.assert_array_equal(np.concatenate([each["crops"][:, 0] for each in made]), expected)
    steps = [example_indices(20, 4, 6, step, order=order) for step in range(8)]
    np.testing.assert_array_equal(np.concatenate(steps), expected)


def test_threads_draw_an_epoch_together():
    """More batches are prefetched than an epoch has."""
    data = dataclasses.replace(DATA, threads=4, prefetch=8)
    assert_same(batches(noise(), 12, 1, 30, data=data), batches(noise(), 12, 1, 30))


def test_a_run_from_before_keeps_its_order(tmp_path):
    """The config.json of this run has no data.order."""
    tree = to_json(tiny())
    del tree["data"]["order"]
    (tmp_path / "config.json").write_text(json.dumps(tree))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").touch()  # a folder without it holds no run
    assert read_config(tmp_path).data.order == 1
    resumed = resumed_config(tmp_path, tiny())
    assert resumed.data.order == 1
    assert resumed_config(tmp_path / "new", tiny()).data.order == 2
    small = dataclasses.replace(resumed.data, image_size=4)
    [batch] = batches(noise(400), 400, 3, 4, data=small, augment=PLAIN, seed=28)
    first = (batch["index"][:32] >= 200).sum()
    assert first == 6  # as in a run of that version


# --- repeated augmentation -----------------------------------------------------------------------


@pytest.mark.parametrize("count, repeats", [(12, 3), (20, 3), (7, 7), (5, 9)])
def test_each_index_comes_several_times_in_a_row(count, repeats):
    """timm's RepeatAugSampler with one process: repeat_interleave, of which `count` are taken."""
    for epoch in (0, 3):
        permutation = draw(count, [(1, epoch)], 2)[0]
        positions = np.arange(epoch * count, (epoch + 1) * count)
        found = examples_at(count, 1, positions, repeats=repeats)
        np.testing.assert_array_equal(found[:, 1], np.repeat(permutation, repeats)[:count])
        np.testing.assert_array_equal(found[:, 2], np.arange(count) % repeats)


@pytest.mark.parametrize("batch_size, repeats", [(12, 3), (12, 4), (10, 4)])
def test_the_rows_are_dealt_as_to_processes(batch_size, repeats):
    """The sampler gives position i to process i modulo the number of processes."""
    rows = batch_positions(batch_size, 5, 7, repeats).reshape(2, batch_size)
    for step, found in enumerate(rows, start=5):
        whole = np.arange(step * batch_size, (step + 1) * batch_size)
        dealt = [whole[process::repeats] for process in range(repeats)]
        np.testing.assert_array_equal(found, np.concatenate(dealt))
        indices = example_indices(120, 0, batch_size, step, repeats=repeats)
        assert len(set(indices.tolist())) <= batch_size // repeats + 2
        assert (indices != np.roll(indices, 1)).all()  # the partners of mixup


def test_copies_are_augmented_anew_and_any_process_reads_its_rows():
    augment = dataclasses.replace(PLAIN, crop="pad", pad=3, repeats=3)
    whole = batches(noise(), 12, 0, 4, augment=augment, seed=2)
    for batch in whole:
        assert len(set(batch["index"].tolist())) <= 6
    views = {image.tobytes() for batch in whole[:1] for image in batch["image"]}
    assert len(views) > 9  # of 49 crops of each image
    for process in (0, 1):
        part = batches(noise(), 12, 0, 4, augment=augment, seed=2, shard=(process, 2))
        for batch, all_rows in zip(part, whole, strict=True):
            rows = slice(6 * process, 6 * process + 6)
            np.testing.assert_array_equal(batch["image"], all_rows["image"][rows])
            np.testing.assert_array_equal(batch["index"], all_rows["index"][rows])
    for step, batch in enumerate(whole):
        expected = example_indices(20, 2, 12, step, repeats=3)
        np.testing.assert_array_equal(batch["index"], expected)


def test_the_first_copy_is_the_view_without_repeats():
    augment = dataclasses.replace(PLAIN, crop="pad", pad=3)
    repeated = batches(noise(), 6, 0, 1, augment=dataclasses.replace(augment, repeats=2))[0]
    plain = batches(noise(), 20, 0, 1, augment=augment)[0]
    found = dict(zip(plain["index"].tolist(), plain["image"], strict=True))
    for index, image in zip(repeated["index"][:3].tolist(), repeated["image"][:3], strict=True):
        np.testing.assert_array_equal(image, found[index])
