"""train/learn/losses.py: losses, class weights and penalties against torch, optax and formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_class_weight

from train.config import ConfigError, LossConfig
from train.learn.losses import (
    binary_cross_entropy,
    cross_entropy,
    elastic_net,
    focal,
    make_penalty,
    sigmoid_focal,
    weights_of_counts,
)
from train.learn.mix import smooth_labels
from train.learn.tasks import Classify

X = jnp.asarray([[2.0, -1.0, 0.5], [-3.0, 0.25, 1.5]])
SOFT = jnp.asarray([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]])
HARD = jnp.eye(3)[jnp.asarray([0, 2])]
W = jnp.asarray([0.5, 2.0, 3.0])


def close(found: jax.Array, expected, rtol: float = 2e-6) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=rtol)


# --- torch 2.13: F.cross_entropy and F.binary_cross_entropy_with_logits in float64 ----------------


def test_cross_entropy_is_torchs():
    close(cross_entropy(X, SOFT), [1.1413113, 0.26052703])
    close(cross_entropy(X, SOFT, weights=W), [2.02924573, 0.7815811])
    smooth = smooth_labels(HARD, 0.1)  # with weights: torch's label_smoothing=0.1
    close(cross_entropy(X, smooth, weights=W), [0.50283049, 0.90951962])


def test_binary_cross_entropy_is_torchs():
    close(binary_cross_entropy(X, SOFT), [0.77142223, 0.35864668])
    close(binary_cross_entropy(X, SOFT, reduction="sum"), [2.31426668, 1.07594005])
    close(binary_cross_entropy(X, SOFT, weights=W), [0.88794013, 0.4929222])
    close(binary_cross_entropy(X, SOFT, weights=jnp.ones(3)), [0.77142223, 0.35864668])


def test_targets_above_a_threshold_are_one_as_in_timm():
    """timm's BinaryCrossEntropy: `target = target.gt(self.target_threshold)`."""
    close(binary_cross_entropy(X, SOFT, threshold=0.2), [0.80475556, 0.35864668])
    exact = binary_cross_entropy(X, SOFT, threshold=0.3)  # not above
    close(exact, binary_cross_entropy(X, HARD))


# --- the focal loss ------------------------------------------------------------------------------


def test_sigmoid_focal_is_optax_on_hard_targets():
    for gamma in (0.0, 0.5, 2.0, 5.0):
        expected = optax.sigmoid_focal_loss(X, HARD, gamma=gamma)
        close(sigmoid_focal(X, HARD, gamma, reduction="sum"), expected.sum(-1), 1e-5)
        close(sigmoid_focal(X, HARD, gamma), expected.mean(-1), 1e-5)


def test_sigmoid_focal_is_the_papers_alpha_form():
    """Equation 5 has alpha for the positives and 1 - alpha for the negatives, so the weight of a
    positive is alpha / (1 - alpha)."""
    expected = optax.sigmoid_focal_loss(X, HARD, alpha=0.75, gamma=2.0).sum(-1) / 0.25
    found = sigmoid_focal(X, HARD, 2.0, reduction="sum", weights=jnp.full(3, 3.0))
    close(found, expected, 1e-5)


def test_focal_by_the_formula():
    p = np.exp(np.asarray(X, np.float64))
    p /= p.sum(-1, keepdims=True)
    for gamma in (0.5, 1.0, 2.0):
        terms = -np.asarray(SOFT) * (1 - p) ** gamma * np.log(p)
        close(focal(X, SOFT, gamma), terms.sum(-1), 1e-5)
        close(focal(X, SOFT, gamma, weights=W), (np.asarray(W) * terms).sum(-1), 1e-5)


def test_without_gamma_focal_losses_are_the_cross_entropies():
    close(focal(X, SOFT, 0.0, weights=W), cross_entropy(X, SOFT, weights=W))
    close(
        sigmoid_focal(X, SOFT, 0.0, weights=W, reduction="sum"),
        binary_cross_entropy(X, SOFT, weights=W, reduction="sum"),
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradients_are_finite_where_the_probability_is_one(gamma):
    certain = jnp.asarray([[100.0, -100.0, -100.0]])
    for loss in (focal, sigmoid_focal):
        for target in jnp.eye(3):
            value, grad = jax.value_and_grad(lambda x, t=target, f=loss: f(x, t, gamma).sum())(
                certain
            )
            assert bool(jnp.isfinite(value)) and bool(jnp.isfinite(grad).all())


# --- class weights -------------------------------------------------------------------------------


def test_inverse_frequency_is_sklearns_balanced():
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(weights_of_counts(np.array([90, 9, 1])), expected)


@pytest.mark.parametrize("root", [False, True])
def test_the_mean_weight_of_the_labels_is_one(root):
    counts = np.array([900, 100, 25, 4])
    weights = weights_of_counts(counts, root=root)
    assert (counts * weights).sum() / counts.sum() == pytest.approx(1)
    ratio = weights[3] / weights[0]
    assert ratio == pytest.approx(math.sqrt(900 / 4) if root else 900 / 4)


def test_a_rule_needs_numbers_first():
    with pytest.raises(AssertionError, match="first replaced by numbers"):
        Classify(LossConfig(class_weights="inverse")).loss(X, {"target": HARD})


@pytest.mark.parametrize(
    "config, expected",
    [
        (LossConfig(), cross_entropy(X, SOFT)),
        (LossConfig(class_weights=(0.5, 2.0, 3.0)), cross_entropy(X, SOFT, weights=W)),
        (LossConfig(name="bce"), binary_cross_entropy(X, SOFT)),
        (
            LossConfig(name="bce", threshold=0.2, reduction="sum", class_weights=(0.5, 2.0, 3.0)),
            binary_cross_entropy(X, SOFT, threshold=0.2, reduction="sum", weights=W),
        ),
        (LossConfig(name="focal", gamma=1.0), focal(X, SOFT, 1.0)),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_the_task_has_the_loss_of_its_config(config, expected):
    np.testing.assert_array_equal(Classify(config).loss(X, {"target": SOFT}), expected)


def test_the_unit_of_the_loss():
    units = [
        Classify(LossConfig(name=name, reduction=reduction)).loss_metric.unit
        for name, reduction in (("cross_entropy", "mean"), ("bce", "mean"), ("bce", "sum"))
    ]
    assert units == ["nats per example", "nats per class", "nats per example"]


# --- penalties -----------------------------------------------------------------------------------

PARAMS = {
    "backbone": {"conv": {"kernel": jnp.asarray([1.0, -2.0])}, "norm": {"scale": jnp.ones(2)}},
    "head": {"kernel": jnp.asarray([[3.0]]), "bias": jnp.asarray([-4.0])},
}


@pytest.mark.parametrize(
    "config, expected",
    [
        (LossConfig(l1=0.5), 0.5 * (1 + 2 + 3)),
        (LossConfig(l2=0.5), 0.5 * (1 + 4 + 9)),
        (LossConfig(l1=0.5, l2=0.1), 0.5 * 6 + 0.1 * 14),
        (LossConfig(l1=0.5, l1_on="head/.*", l2=0.1, l2_on="backbone/.*"), 0.5 * 7 + 0.1 * 7),
    ],
)
def test_penalties_by_hand(config, expected):
    penalty = make_penalty(config)
    close(penalty(PARAMS), expected)
    grads = jax.grad(penalty)(PARAMS)
    if config == LossConfig(l2=0.5):  # the gradient of a weight decay of 2 * l2
        np.testing.assert_allclose(grads["head"]["kernel"], PARAMS["head"]["kernel"])
        np.testing.assert_array_equal(grads["head"]["bias"], [0.0])


def test_no_penalty():
    assert make_penalty(LossConfig()) is None
    zero = jax.tree.map(lambda _: 0.0, PARAMS)
    assert float(elastic_net(PARAMS, zero, zero)) == 0


def test_a_path_that_matches_nothing_is_an_error():
    with pytest.raises(ConfigError, match=r"loss.l1_on 'hed/kernel' matches no parameter;"):
        make_penalty(LossConfig(l1=0.1, l1_on="hed/kernel"))(PARAMS)
