"""Losses and penalties: pure functions of logits and targets, or of parameters.

Logits and targets are float32 [B, K]; a loss is float32 [B], in nats. Targets may be soft.
`weights` has one number for each class, [K]. It multiplies the terms in which the class is the
target: the `weight` of torch's cross-entropy, the `pos_weight` of its binary cross-entropy, and the
alpha of the focal loss.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.config import ConfigError, LossConfig
from train.learn.paths import value_tree

Reduction = Literal["mean", "sum"]
Penalty = Callable[[optax.Params], jax.Array]
"""Parameters -> float32 scalar."""

_LEAST = 1e-7  # of 1 - p in the focal factor, whose gradient is infinite at 0 where gamma < 1


def cross_entropy(
    logits: jax.Array, targets: jax.Array, *, weights: jax.Array | None = None
) -> jax.Array:
    """-sum_k w_k t_k log p_k, with p = softmax(logits).

    >>> loss = cross_entropy(jnp.zeros((1, 4)), jnp.eye(4)[:1], weights=jnp.asarray([2.0, 1, 1, 1]))
    >>> round(float(loss[0]), 4)  # 2 log 4
    2.7726
    """
    targets = targets if weights is None else weights * targets
    return optax.softmax_cross_entropy(logits, targets)


def binary_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    threshold: float | None = None,
    reduction: Reduction = "mean",
    weights: jax.Array | None = None,
) -> jax.Array:
    """Of each class, -w t log p - (1 - t) log(1 - p), with p = sigmoid(logit).

    As `BinaryCrossEntropy` of timm (loss/binary_cross_entropy.py), for each example.

    Args:
      threshold: targets above it become 1, the others 0; None: targets stay soft.
      reduction: mean or sum over the classes.

    >>> logits, mixed = jnp.zeros((1, 4)), jnp.asarray([[0.7, 0.3, 0.0, 0.0]])
    >>> round(float(binary_cross_entropy(logits, mixed, reduction="sum")[0]), 4)  # 4 log 2
    2.7726
    """
    if threshold is not None:
        targets = (targets > threshold).astype(logits.dtype)
    if weights is None:
        terms = optax.sigmoid_binary_cross_entropy(logits, targets)
    else:
        terms = -weights * targets * jax.nn.log_sigmoid(logits)
        terms -= (1 - targets) * jax.nn.log_sigmoid(-logits)
    return _reduce(terms, reduction)


def focal(
    logits: jax.Array, targets: jax.Array, gamma: float, *, weights: jax.Array | None = None
) -> jax.Array:
    """The focal loss of one label: -sum_k w_k t_k (1 - p_k)^gamma log p_k, p = softmax(logits).

    Lin 2017, arXiv:1708.02002, equations 4 and 5, of K classes instead of two. With gamma 0 it is
    `cross_entropy`.

    Examples:
      >>> [round(float(focal(jnp.zeros((1, 4)), jnp.eye(4)[:1], g)[0]), 4) for g in (0, 2)]
      [1.3863, 0.7798]
    """
    logs = jax.nn.log_softmax(logits)
    targets = targets if weights is None else weights * targets
    return -(targets * _focus(1 - jnp.exp(logs), gamma) * logs).sum(-1)


def sigmoid_focal(
    logits: jax.Array,
    targets: jax.Array,
    gamma: float,
    *,
    reduction: Reduction = "mean",
    weights: jax.Array | None = None,
) -> jax.Array:
    """The focal loss of several labels: of each class, with p = sigmoid(logit),
    -w t (1 - p)^gamma log p - (1 - t) p^gamma log(1 - p).

    Lin 2017, arXiv:1708.02002, equation 4. With gamma 0 it is `binary_cross_entropy`. Lin sums over
    the classes.

    >>> loss = sigmoid_focal(jnp.asarray([[0.0, 0.0]]), jnp.asarray([[1.0, 0.0]]), 2)
    >>> round(float(loss[0]), 4)  # log 2 / 4
    0.1733
    """
    p = jax.nn.sigmoid(logits)
    positive = targets if weights is None else weights * targets
    terms = -positive * _focus(1 - p, gamma) * jax.nn.log_sigmoid(logits)
    terms -= (1 - targets) * _focus(p, gamma) * jax.nn.log_sigmoid(-logits)
    return _reduce(terms, reduction)


def _focus(distance: jax.Array, gamma: float) -> jax.Array:
    return jnp.maximum(distance, _LEAST) ** gamma


def _reduce(terms: jax.Array, reduction: Reduction) -> jax.Array:
    return terms.mean(-1) if reduction == "mean" else terms.sum(-1)


def weights_of_counts(counts: np.ndarray, *, root: bool = False) -> np.ndarray:
    """Class weights in inverse frequency, of which the mean over the labels is 1.

    Args:
      counts: int [K], how many labels each class has. All must be above 0.
      root: in the inverse square root of the frequency.

    Returns:
      float64 [K]: sum(counts) / (K * counts), scikit-learn's "balanced"; with `root`,
      sum(counts) / (sum(sqrt(counts)) * sqrt(counts)).

    >>> weights_of_counts(np.array([90, 10])).round(4).tolist()
    [0.5556, 5.0]
    >>> weights_of_counts(np.array([90, 10]), root=True).round(4).tolist()
    [0.8333, 2.5]
    """
    scale = np.sqrt(counts) if root else np.asarray(counts, np.float64)
    return counts.sum() / ((counts / scale).sum() * scale)


def elastic_net(params: optax.Params, l1: Any, l2: Any) -> jax.Array:
    """sum l1 |w| + sum l2 w^2, over all parameters.

    Args:
      l1, l2: trees with the structure of `params`, of numbers that broadcast against them.

    >>> params = {"kernel": jnp.asarray([1.0, -2.0]), "bias": jnp.asarray([3.0])}
    >>> l1, l2 = {"kernel": 0.5, "bias": 0.0}, {"kernel": 0.0, "bias": 0.1}
    >>> round(float(elastic_net(params, l1, l2)), 4)  # 0.5 * 3 + 0.1 * 9
    2.4
    """

    def one(w: jax.Array, a: Any, b: Any) -> jax.Array | float:
        parts = ((a, jnp.abs), (b, jnp.square))
        return sum((jnp.sum(c * f(w)) for c, f in parts if np.any(c)), 0.0)

    total = sum(jax.tree.leaves(jax.tree.map(one, params, l1, l2)))
    return jnp.asarray(total, jnp.float32)


def make_penalty(loss: LossConfig) -> Penalty | None:
    """Parameters -> the penalties `loss.l1` and `loss.l2`; None: both are 0.

    The function raises `ConfigError` if `loss.l1_on` or `loss.l2_on` matches no parameter.
    """
    if not loss.l1 and not loss.l2:
        return None

    def penalty(params: optax.Params) -> jax.Array:
        l1 = _coefficients(params, "loss.l1_on", loss.l1_on, loss.l1)
        return elastic_net(params, l1, _coefficients(params, "loss.l2_on", loss.l2_on, loss.l2))

    return penalty


def _coefficients(params: optax.Params, option: str, expression: str, value: float) -> Any:
    try:
        return value_tree(params, [(expression, value)] if value else [], default=0.0)
    except ConfigError as error:
        raise ConfigError(f"{option} {error}") from None
