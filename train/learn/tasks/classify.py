"""`Classify`: one label of K classes for each image."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from train.config import LossConfig
from train.distributed.mesh import Batch
from train.learn.losses import binary_cross_entropy, cross_entropy, focal
from train.learn.tasks.base import Metric, Task

TOP1 = Metric("top1", "top-1", "top-1 accuracy", unit="%")


def loss_metric(config: LossConfig, *, has_terms: bool) -> Metric:
    """How the loss of a config is shown; `has_terms`: each class has its own, to be reduced."""
    is_mean = has_terms and config.reduction == "mean"
    unit = "nats per class" if is_mean else "nats per example"
    return Metric("loss", "loss", unit=unit, higher_is_better=False)


def weights_of(config: LossConfig) -> jax.Array | None:
    """float32 [K]: the weights of the classes; None: all are 1."""
    weights = config.class_weights
    if weights == "none":
        return None
    assert isinstance(weights, tuple), "a rule is first replaced by numbers"
    return jnp.asarray(weights, jnp.float32)


class Classify(Task):
    """A loss of `loss.name` against `target`; top-1 and top-5 against `label`."""

    name: ClassVar[str] = "classify"
    headline: ClassVar[Metric] = TOP1

    def __init__(self, config: LossConfig | None = None) -> None:
        """`loss.*`; None: the defaults. Its `class_weights` are numbers, or "none"."""
        self._config = config or LossConfig()
        self.loss_metric = loss_metric(self._config, has_terms=self._config.name == "bce")

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Float32 logits [B, K] -> [B], in nats."""
        config, target, weights = self._config, batch["target"], weights_of(self._config)
        if config.name == "bce":
            return binary_cross_entropy(
                outputs,
                target,
                threshold=config.threshold,
                reduction=config.reduction,
                weights=weights,
            )
        if config.name == "focal":
            return focal(outputs, target, config.gamma, weights=weights)
        return cross_entropy(outputs, target, weights=weights)

    def metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Logits [B, K] -> `top1` and `top5`: 1 if the label is among the 1 or 5 highest logits.

        The label's rank counts equal logits before it, and its own NaN is wrong: constant logits
        are never top-1 correct. `top1` is 1 exactly where `top_class` is the label.
        """
        own = jnp.take_along_axis(outputs, batch["label"][:, None], axis=-1)
        rank = outputs.shape[-1] - jnp.sum(outputs < own, axis=-1)  # 1: strictly the highest
        is_number = ~jnp.isnan(own[:, 0])
        return {f"top{k}": (is_number & (rank <= k)).astype(jnp.float32) for k in (1, 5)}

    def examples(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Logits [B, K] -> `label` and `prediction` (int32 [B]; see `top_class`) and `confidence`
        (float32 [B], the highest softmax probability)."""
        return {
            "label": batch["label"],
            "prediction": top_class(outputs),
            "confidence": jax.nn.softmax(outputs).max(-1),
        }


NO_CLASS = -1
"""What `top_class` returns if no class has the highest logit alone."""


def top_class(logits: jax.Array) -> jax.Array:
    """[B, K] -> int32 [B]: the class with the highest logit; `NO_CLASS` if the highest is tied, or
    any logit is NaN.

    >>> top_class(jnp.asarray([[0.0, 2.0, 1.0], [2.0, 2.0, 1.0], [0.0, jnp.nan, 1.0]])).tolist()
    [1, -1, -1]
    """
    best = logits.argmax(-1)
    highest = jnp.take_along_axis(logits, best[:, None], axis=-1)
    ahead = jnp.sum(logits < highest, axis=-1) == logits.shape[-1] - 1
    return jnp.where(ahead & ~jnp.isnan(highest[:, 0]), best, NO_CLASS).astype(jnp.int32)
