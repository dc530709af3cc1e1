"""`MultiLabel`: any number of K labels for each image."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from train.config import LossConfig
from train.distributed.mesh import Batch
from train.learn.losses import binary_cross_entropy, sigmoid_focal
from train.learn.tasks.base import Metric, Task
from train.learn.tasks.classify import loss_metric, weights_of

MAP = Metric("map", "mAP", "mean average precision", unit="%")


class MultiLabel(Task):
    """The BCE or focal loss of each class against `target`, and mean average precision.

    `label` is uint8 [B, K], 1 for the labels of an image.
    """

    name: ClassVar[str] = "multi_label"
    headline: ClassVar[Metric] = MAP
    uses_whole_split: ClassVar[bool] = True

    def __init__(self, config: LossConfig) -> None:
        """`loss.*`, whose `name` is "bce" or "focal"."""
        self._config = config
        self.loss_metric = loss_metric(config, has_terms=True)

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Float32 logits [B, K] -> [B], in nats: the mean or the sum over the classes."""
        config, target, weights = self._config, batch["target"], weights_of(self._config)
        if config.name == "focal":
            return sigmoid_focal(
                outputs, target, config.gamma, reduction=config.reduction, weights=weights
            )
        return binary_cross_entropy(
            outputs,
            target,
            threshold=config.threshold,
            reduction=config.reduction,
            weights=weights,
        )

    def metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Logits [B, K] -> `exact`: 1 if all K decisions are right, and `decisions`: the share of
        right ones. A label is predicted if its logit is above 0; NaN is wrong."""
        right = ((outputs > 0) == (batch["label"] > 0)) & ~jnp.isnan(outputs)
        return {
            "exact": right.all(-1).astype(jnp.float32),
            "decisions": right.astype(jnp.float32).mean(-1),
        }

    def examples(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Logits [B, K] -> `label` uint8 [B, K] and `score` float32 [B, K], the probabilities."""
        return {"label": batch["label"], "score": jax.nn.sigmoid(outputs)}

    def whole_split(self, values: Mapping[str, np.ndarray]) -> dict[str, float]:
        """`map`: the mean average precision of the classes that have images."""
        found = average_precision(values["label"], values["score"])
        seen = values["label"].any(0)
        return {"map": float(found[seen].mean()) if seen.any() else float("nan")}


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The average precision of each class: sum_n (R_n - R_(n-1)) P_n over all thresholds n.

    As scikit-learn's `average_precision_score`: without interpolation, and equal scores are one
    threshold.

    Args:
      labels: 0 or 1, [N, K].
      scores: float [N, K].

    Returns:
      float64 [K]; NaN for a class without a 1, or with a NaN among its scores.

    >>> average_precision(np.array([[1], [0], [1]]), np.array([[0.9], [0.8], [0.7]])).round(4)
    array([0.8333])
    """
    return np.array([_one(y, s) for y, s in zip(labels.T > 0, scores.T, strict=True)], np.float64)


def _one(labels: np.ndarray, scores: np.ndarray) -> float:
    count = labels.sum()
    if not count or np.isnan(scores).any():
        return np.nan
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    true = np.cumsum(labels[order])[ends]
    return float((np.diff(true, prepend=0) / count * (true / (ends + 1))).sum())
