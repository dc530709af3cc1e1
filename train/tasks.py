"""What is learnt: per-example loss and metrics. The step sums them over a masked batch."""

from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from train.prepare import Batch


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

        The rank counts ties against the example, and a logit that is not a number as wrong: a
        network that says the same of every class, or nothing at all, earns nothing.
        """
        own = jnp.take_along_axis(logits, batch["label"][:, None], axis=-1)
        rank = logits.shape[-1] - jnp.sum(logits < own, axis=-1)  # 1: strictly the highest
        said = ~jnp.isnan(own[:, 0])
        return {f"top{k}": (said & (rank <= k)).astype(jnp.float32) for k in (1, 5)}
