"""train/data/balance.py: shares of the classes, passes through each class, and where it is used."""

import re
import signal
from dataclasses import replace

import numpy as np
import pytest

from tests.data.test_on_device import on_devices
from tests.data.test_pipeline import DATA, PAD, assert_same, batches, column
from tests.run.test_fit import content, stopping_at
from tests.run.test_start_screen import said
from tests.runs import tiny
from train.config import ConfigError, DataConfig, LossConfig, ModelConfig, RunError
from train.data.balance import Balance, make_balance
from train.data.order import example_indices, examples_at
from train.data.sources import ArraySource, Splits
from train.run.fit import fit
from train.run.metrics import SkippedStep
from train.run.nonfinite import describe
from train.run.parts import Run

COUNTS = np.array([81, 0, 16, 3])
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))
N = len(LABELS)
INVERSE, ROOT = Balance(LABELS), Balance(LABELS, root=True)

# (pass, index) of the two first epochs, with classes of five and of one example
FIXED = [
    [[0, 3], [0, 0], [0, 2], [2, 4], [0, 4], [1, 4]],
    [[0, 1], [0, 5], [3, 4], [5, 4], [4, 4], [1, 5]],
]


def source() -> ArraySource:
    pixels = np.random.default_rng(1).integers(1, 256, (N, 4, 4, 3), np.uint8)
    return ArraySource(pixels, LABELS, list("abcd"), "train")


def data(balance: str = "inverse", **changes) -> DataConfig:
    return replace(DATA, balance=balance, **changes)


def drawn(balance: Balance, epochs: int, seed: int = 5) -> np.ndarray:
    """int64 [epochs, N, 2]"""
    return np.stack([balance.epoch(seed, epoch) for epoch in range(epochs)])


@pytest.mark.parametrize("balance, weights", [(INVERSE, [1, 0, 1, 1]), (ROOT, [9, 0, 4, 3**0.5])])
def test_every_class_has_its_share_of_every_epoch(balance, weights):
    ideal = np.array(weights) / sum(weights) * N
    for epoch in drawn(balance, 30):
        counts = np.bincount(LABELS[epoch[:, 1]], minlength=4)
        assert counts.sum() == N and (np.abs(counts - ideal) < 2).all()
    whole = np.bincount(LABELS[drawn(balance, 30)[..., 1].ravel()], minlength=4)
    assert (np.abs(whole - 30 * ideal) <= 1).all()  # errors do not add up


def test_classes_of_one_size_are_all_used_once():
    found = drawn(Balance(np.arange(60) % 3), 4)
    np.testing.assert_array_equal(np.sort(found[..., 1]), [np.arange(60)] * 4)
    np.testing.assert_array_equal(found[..., 0], np.repeat([[0], [1], [2], [3]], 60, axis=1))


@pytest.mark.parametrize("balance", [INVERSE, ROOT])
def test_no_example_comes_again_before_all_of_its_class(balance):
    found = drawn(balance, 12).reshape(-1, 2)
    assert len(np.unique(found, axis=0)) == len(found)  # so repetitions are augmented differently
    for members in balance.members:
        turns = found[np.isin(found[:, 1], members)]
        whole = [turns[turns[:, 0] == turn, 1] for turn in range(turns[:, 0].max())]
        assert len(whole) >= 2
        for each in whole:  # all but the last pass, which has only begun
            np.testing.assert_array_equal(np.sort(each), members)


def test_passes_and_epochs_are_shuffled():
    rare = [INVERSE.epoch(seed, 0) for seed in range(40)]
    orders = {tuple(e[np.isin(e[:, 1], INVERSE.members[2]) & (e[:, 0] == 0), 1]) for e in rare}
    assert len(orders) == 6  # all orders of three examples
    first = np.array([(LABELS[e[:20, 1]] == 0).sum() for e in rare])
    assert abs(first.mean() - 20 / 3) < 4 * np.sqrt(20 * 2 / 9 * 80 / 99 / 40)
    assert len({e.tobytes() for e in rare}) == 40


def test_the_order_never_changes():
    """Fixed results: a resume years later needs the same order."""
    small = Balance(np.array([0, 0, 0, 0, 1, 0]))
    assert small.epoch(3, 0).tolist() == FIXED[0] and small.epoch(3, 1).tolist() == FIXED[1]


@pytest.mark.parametrize("start, stop", [(0, 0), (7, 7), (0, 300), (95, 210), (199, 201)])
def test_any_part_of_the_stream_is_that_of_the_whole(start, stop):
    whole = drawn(INVERSE, 3, seed=1).reshape(-1, 2)
    found = examples_at(N, 1, np.arange(start, stop), balance=INVERSE)
    np.testing.assert_array_equal(found[:, :2], whole[start:stop])


# --- where it is used ----------------------------------------------------------------------------


def test_batches_of_any_process_thread_and_device_are_the_same(devices):
    whole = batches(source(), 12, 6, 12, data=data())
    assert_same(batches(source(), 12, 6, 12, data=data(threads=3)), whole)
    halves = [batches(source(), 12, 6, 12, data=data(), shard=(i, 2)) for i in range(2)]
    for step, batch in enumerate(whole):
        both = np.concatenate([half[step]["image"] for half in halves])
        np.testing.assert_array_equal(both, batch["image"])
    indices = [example_indices(N, 0, 12, step, balance=INVERSE) for step in range(6, 12)]
    np.testing.assert_array_equal(column(whole, "index"), np.concatenate(indices))
    host, found = on_devices(source(), 12, 6, 12, devices[:1], data=data(), balance=Balance(LABELS))
    for here, there, batch in zip(host, found, whole, strict=True):
        np.testing.assert_array_equal(here["crops"][:, 0], batch["index"])
        np.testing.assert_array_equal(there["image"], batch["image"])
        np.testing.assert_array_equal(there["label"], batch["label"])


def test_repetitions_in_a_batch_have_their_own_crops():
    [batch] = batches(source(), N, 0, 1, data=data(), augment=PAD)
    views: dict[int, set[bytes]] = {}
    for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
        views.setdefault(index, set()).add(image.tobytes())
    rare = [len(views[i]) for i in INVERSE.members[2].tolist()]  # each about 11 times, of 50 views
    assert min(rare) >= 7


def run(**changes):
    changes = {"balance": "inverse", **changes}
    return tiny(
        duration="6st",
        log_every="2st",
        model=ModelConfig(name="resnet8_cifar", depths=(1,), width=8),
        data=replace(tiny().data, **changes),
    )


def test_a_run_resumes_bit_for_bit(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(run(), whole, quiet=True)
    with monkeypatch.context() as patch:
        stopping_at(patch, 3, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 3 of 6, saved"):
            fit(run(), cut, quiet=True)
    fit(run(resident="on"), cut, quiet=True)
    assert content(whole) == content(cut)


def test_messages_name_the_sampling():
    config = run()
    found = Run(replace(config, batch_size=12), splits=Splits(source(), source()))
    named = describe(found, SkippedStep(2, "loss"))["examples"]
    expected = example_indices(N, 0, 12, 1, balance=INVERSE)
    assert [each["index"] for each in named] == expected.tolist()
    assert said(config, Splits(source(), source()))["classes"] == (
        "4: a (81), b (0), c (16), d (3); sampled in inverse frequency"
    )
    root = run(balance="sqrt_inverse")
    assert said(root, Splits(source(), source()))["classes"].endswith(
        "square root of the frequency"
    )


def test_what_does_not_go_together():
    with pytest.raises(ConfigError, match=r"data.balance inverse: needs data.order 2, not 1"):
        make_balance(source(), data(order=1))
    assert make_balance(source(), data("none", order=1)) is None
    weighted = LossConfig(class_weights="inverse")
    message = "loss.class_weights 'inverse': rare classes are weighted already by data.balance"
    for balance in ("inverse", "sqrt_inverse"):
        with pytest.raises(ConfigError, match=re.escape(f"{message} {balance}; choose one")):
            replace(run(balance=balance), loss=weighted)
    half = LossConfig(class_weights="sqrt_inverse")
    replace(run(balance="sqrt_inverse"), loss=half)  # together: the inverse frequency
