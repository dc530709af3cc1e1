"""`Classify`: one label of K classes for each image."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from train.distributed.mesh import Batch
from train.learn.tasks.base import Metric, Task

TOP1 = Metric("top1", "top-1", "top-1 accuracy", unit="%")


class Classify(Task):
    """Softmax cross-entropy against `target`; top-1 and top-5 against `label`."""

    name: ClassVar[str] = "classify"
    headline: ClassVar[Metric] = TOP1
    loss_metric: ClassVar[Metric] = Metric(
        "loss", "loss", unit="nats per example", higher_is_better=False
    )

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Float32 logits [B, K] -> [B], in nats."""
        return optax.softmax_cross_entropy(outputs, batch["target"])

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
