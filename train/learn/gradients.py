"""How the gradient of a batch is computed: over micro-batches, with a penalty, at another point.

Every function takes and returns a `Gradient`, so they wrap one another.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from train.distributed.mesh import Batch, batch_sharding, steps_sharding
from train.learn.losses import Penalty
from train.learn.state import Variables

Sums = dict[str, jax.Array]
"""Float32 scalars, summed over the examples that the mask admits; `count`: number of them."""

_MICRO_BATCH = 2
"""Folded into the key of a step for the keys of its micro-batches."""


class Gradient(Protocol):
    """The gradient of the mean loss over a batch."""

    def __call__(
        self, params: optax.Params, batch_stats: Variables, batch: Batch, key: jax.Array, /
    ) -> tuple[optax.Updates, tuple[Variables, Sums]]:
        """-> (gradient, (BatchNorm's running statistics after the batch, sums))."""


def composed(
    gradient: Gradient, mesh: Mesh, micro_batches: int, penalty: Penalty | None, sam: float
) -> Gradient:
    """`gradient` with the requested ones of `accumulate`, `penalised` and `sharpness_aware`."""
    if micro_batches > 1:
        gradient = accumulate(gradient, micro_batches, mesh)
    if penalty is not None:
        gradient = penalised(gradient, penalty)
    return sharpness_aware(gradient, sam) if sam else gradient


def accumulate(gradient: Gradient, count: int, mesh: Mesh) -> Gradient:
    """The mean gradient over `count` micro-batches, computed one after another.

    The result is the gradient of the mean loss over the whole batch, if no layer looks across
    examples. BatchNorm does: it normalises by each micro-batch, and updates its running statistics
    `count` times. Mixing and dropout draw for each micro-batch too, with keys of their own.

    Micro-batch i has the examples i, i + count, i + 2 count, ... of the batch: every device keeps
    the examples that it holds, and the micro-batches are the same on any mesh. Only one
    micro-batch is in the network at a time, so the memory for its maps does not depend on `count`.

    Args:
      gradient: of one micro-batch.
      count: divides the examples of a batch on each device.
      mesh: over which the batch is split.
    """

    def whole(
        params: optax.Params, batch_stats: Variables, batch: Batch, key: jax.Array
    ) -> tuple[optax.Updates, tuple[Variables, Sums]]:
        parts = lax.with_sharding_constraint(split_batch(batch, count), steps_sharding(mesh))
        keys = jax.random.split(jax.random.fold_in(key, _MICRO_BATCH), count)

        def add(
            carry: tuple[optax.Updates, Variables], part: tuple[Batch, jax.Array]
        ) -> tuple[tuple[optax.Updates, Variables], Sums]:
            total, stats = carry
            examples = lax.with_sharding_constraint(part[0], batch_sharding(mesh))
            grads, (stats, sums) = gradient(params, stats, examples, part[1])
            total = jax.tree.map(lambda t, g: t + sums["count"] * g, total, grads)
            return (total, stats), sums

        start = jax.tree.map(jnp.zeros_like, params), batch_stats
        (total, stats), each = lax.scan(add, start, (parts, keys))
        sums = jax.tree.map(lambda x: x.sum(0), each)
        return jax.tree.map(lambda g: g / sums["count"], total), (stats, sums)

    return whole


def penalised(gradient: Gradient, penalty: Penalty) -> Gradient:
    """The gradient of the mean loss plus a penalty, which the sums contain as `penalty`.

    >>> def gradient(w, batch_stats, batch, key):  # of w^2
    ...     return 2 * w, (batch_stats, {"loss": w**2})
    >>> whole = penalised(gradient, lambda w: 3 * jnp.abs(w))
    >>> at, (_, sums) = whole(jnp.float32(2.0), {}, {}, jax.random.key(0))
    >>> float(at), float(sums["loss"]), float(sums["penalty"])
    (7.0, 4.0, 6.0)
    """

    def whole(
        params: optax.Params, batch_stats: Variables, batch: Batch, key: jax.Array
    ) -> tuple[optax.Updates, tuple[Variables, Sums]]:
        grads, (stats, sums) = gradient(params, batch_stats, batch, key)
        value, more = jax.value_and_grad(penalty)(params)
        return optax.tree.add(grads, more), (stats, {**sums, "penalty": value})

    return whole


def sharpness_aware(gradient: Gradient, rho: float) -> Gradient:
    """The gradient at w + rho g / |g|, with the gradient g at the parameters w.

    Sharpness-aware minimisation (SAM, Foret 2021, arXiv:2010.01412, equations 2 and 3). The norm is
    that of all parameters, and g that of the whole batch on all devices (the authors' code perturbs
    on each device by its share). Both gradients see the same batch and the same dropout masks.

    BatchNorm normalises by the batch in both. Its running statistics, and the sums, are those of
    the first one, at w.

    >>> def gradient(w, batch_stats, batch, key):  # of w^2
    ...     return 2 * w, (batch_stats, {"loss": w**2})
    >>> at, (_, sums) = sharpness_aware(gradient, 0.5)(jnp.float32(3.0), {}, {}, jax.random.key(0))
    >>> float(at), float(sums["loss"])
    (7.0, 9.0)
    """

    def perturbed(
        params: optax.Params, batch_stats: Variables, batch: Batch, key: jax.Array
    ) -> tuple[optax.Updates, tuple[Variables, Sums]]:
        grads, rest = gradient(params, batch_stats, batch, key)
        norm = optax.tree.norm(grads)
        factor = jnp.where(norm > 0, rho / norm, 0.0)
        uphill = jax.tree.map(lambda w, g: w + factor * g, params, grads)
        return gradient(uphill, batch_stats, batch, key)[0], rest

    return perturbed


def split_batch(batch: Batch, count: int) -> Batch:
    """Every array [B, ...] as [count, B / count, ...]: part i has the rows i, i + count, ...

    >>> split_batch({"label": jnp.arange(6)}, 3)["label"].tolist()
    [[0, 3], [1, 4], [2, 5]]
    """

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(len(x) // count, count, *x.shape[1:]), 1, 0)

    return jax.tree.map(split, batch)
