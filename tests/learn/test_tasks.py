"""train/learn/tasks/classify.py: loss and metrics in closed form, with ties and NaN."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from train.learn.tasks import Classify

TASK = Classify()
NAN, INF = math.nan, math.inf


def scores(logits, label) -> list[tuple[float, float]]:
    """(top1, top5) of each row."""
    batch = {"label": jnp.asarray(label, jnp.int32)}
    found = TASK.metrics(jnp.asarray(logits, jnp.float32), batch)
    assert set(found) == {"top1", "top5"}
    assert {str(x.dtype) for x in found.values()} == {"float32"}
    assert found["top1"].shape == found["top5"].shape == (len(label),)
    return list(zip(found["top1"].tolist(), found["top5"].tolist(), strict=True))


def loss(logits, target) -> np.ndarray:
    return np.asarray(TASK.loss(jnp.asarray(logits, jnp.float32), {"target": jnp.asarray(target)}))


def test_loss_is_cross_entropy_in_nats_for_each_example():
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (6, 5))
    target = draw.dirichlet(np.ones(5), 6)
    expected = -(target * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1)
    found = loss(logits, target)
    assert found.shape == (6,) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_loss_by_hand():
    found = loss([[0.0] * 10] * 2, np.eye(10)[[3, 7]])
    np.testing.assert_allclose(found, [math.log(10)] * 2, rtol=1e-6)
    found = loss([[math.log(3), 0.0]] * 2, np.eye(2))
    np.testing.assert_allclose(found, [math.log(4 / 3), math.log(4)], rtol=1e-6)
    smoothed = loss([[math.log(3), 0.0]], [[0.75, 0.25]])  # its minimum is the entropy
    np.testing.assert_allclose(
        smoothed, [-0.75 * math.log(0.75) - 0.25 * math.log(0.25)], rtol=1e-6
    )


def test_loss_of_large_logits_is_exact():
    found = loss([[1e4, 0.0, 0.0], [0.0, 1e4, 0.0]], np.eye(3)[[0, 0]])
    np.testing.assert_array_equal(found, [0.0, 1e4])


def test_ranks_from_first_to_last():
    logits = [[9, 8, 7, 6, 5, 4, 3]] * 7
    assert scores(logits, range(7)) == [(1, 1)] + [(0, 1)] * 4 + [(0, 0)] * 2


def test_each_row_is_compared_with_its_own_label():
    draw = np.random.default_rng(0)
    logits, label = draw.normal(size=(200, 20)), draw.integers(0, 20, 200)
    order = np.argsort(-logits, axis=-1)
    expected = [(float(y == o[0]), float(y in o[:5])) for y, o in zip(label, order, strict=True)]
    assert scores(logits, label) == expected
    assert 0 < sum(top1 for top1, _ in expected) < sum(top5 for _, top5 in expected) < 200


@pytest.mark.parametrize("label", [0, 3, 9])
def test_constant_logits_count_as_wrong(label):
    assert scores([[0.5] * 10], [label]) == [(0, 0)]


def test_ties_count_against_the_example():
    assert scores([[1, 1, 0, 0, 0, 0, 0]], [0]) == [(0, 1)]  # second, tied
    assert scores([[1, 1, 0, 0, 0, 0, 0]], [1]) == [(0, 1)]
    assert scores([[9, 8, 7, 6, 1, 1, 0]], [4]) == [(0, 0)]  # sixth
    assert scores([[9, 8, 7, 1, 1, 0, 0]], [3]) == [(0, 1)]  # fifth
    assert scores([[9, 0, 0, 0, 0, 0, 0]], [0]) == [(1, 1)]  # ties of other classes do not matter


@pytest.mark.parametrize("label", [0, 6])
def test_nan_at_the_label_counts_as_wrong(label):
    assert scores([[NAN] * 7], [label]) == [(0, 0)]
    own = [1.0] * 7
    own[label] = NAN
    assert scores([own], [label]) == [(0, 0)]


def test_nan_at_other_classes_counts_against_the_example():
    assert scores([[9, NAN, 0, 0, 0, 0, 0]], [0]) == [(0, 1)]
    assert scores([[9, NAN, NAN, NAN, NAN, NAN, 0]], [0]) == [(0, 0)]


def test_infinite_logits():
    assert scores([[INF, 0, 0, 0, 0, 0, 0]] * 2, [0, 1]) == [(1, 1), (0, 0)]
    assert scores([[-INF, 0, 1, 2, 3, 4, 5]] * 2, [0, 6]) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_with_five_classes_or_fewer_all_are_among_five(classes):
    logits = [list(range(classes))] * classes
    expected = [(float(i == classes - 1), 1.0) for i in range(classes)]
    assert scores(logits, range(classes)) == expected


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_nan_is_wrong_with_few_classes_too(classes):
    assert scores([[NAN] * classes], [0]) == [(0, 0)]
