"""What is learnt: per-example loss and metrics. The step sums them over a masked batch."""

from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from train.distributed.mesh import Batch


class Task(Protocol):
    """Both return one float32 value for each example of the batch."""

    def loss(self, logits: jax.Array, batch: Batch) -> jax.Array: ...

    def metrics(self, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]: ...


class Classify:
    """Softmax cross-entropy against `target`; top-1 and top-5 against `label`."""

    def loss(self, logits: jax.Array, batch: Batch) -> jax.Array:
        """Float32 logits [B, K] -> [B], in nats."""
        return optax.softmax_cross_entropy(logits, batch["target"])

    def metrics(self, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """1 where the label is among the 1 or 5 highest logits (all of them if K < 5).

        The rank counts ties against the example, and NaN as wrong: constant logits are never right.
        `top1` is 1 exactly where the label is the `top_class`.
        """
        own = jnp.take_along_axis(logits, batch["label"][:, None], axis=-1)
        rank = logits.shape[-1] - jnp.sum(logits < own, axis=-1)  # 1: strictly the highest
        said = ~jnp.isnan(own[:, 0])
        return {f"top{k}": (said & (rank <= k)).astype(jnp.float32) for k in (1, 5)}


NO_CLASS = -1
"""What `top_class` predicts where no class is ahead."""


def top_class(logits: jax.Array) -> jax.Array:
    """[B, K] -> int32 [B]: the class with the highest logit; `NO_CLASS` if the highest is tied, or
    any logit is NaN.

    Examples:
      >>> top_class(jnp.asarray([[0.0, 2.0, 1.0], [2.0, 2.0, 1.0], [0.0, jnp.nan, 1.0]])).tolist()
      [1, -1, -1]
    """
    best = logits.argmax(-1)
    highest = jnp.take_along_axis(logits, best[:, None], axis=-1)
    ahead = jnp.sum(logits < highest, axis=-1) == logits.shape[-1] - 1
    return jnp.where(ahead & ~jnp.isnan(highest[:, 0]), best, NO_CLASS).astype(jnp.int32)
