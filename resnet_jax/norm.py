"""BatchNorm with explicit, mutable running statistics, and GroupNorm without any."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.init import Initializer


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """What sums over a map are taken in: float32, or float64 for those who compute in it."""
    return jnp.promote_types(dtype, jnp.float32)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015, arXiv:1502.03167).

    Parameters `scale`, `bias` and variables `batch_stats/{mean, var}` are float32 [C]; statistics
    are computed in float32, or in `dtype` if that is wider, and the result is returned in `dtype`.

    Training normalises by the batch's mean and biased variance, and moves the running averages:
    `running = momentum * running + (1 - momentum) * batch`, with the *unbiased* variance of the
    batch (factor n / (n - 1)), as torch keeps it. `momentum` is Flax's: 0.9 keeps 0.9 (torch
    writes 0.1 for the same). Evaluation and a `frozen` layer read the running averages and never
    touch them.

    `group_size` computes the statistics over consecutive groups of that many examples ("ghost"
    batches; per-device statistics when it is the batch of a device); the running averages then
    take the mean over groups. None is the whole batch: under `jit` over a mesh, the global one.

    Raises:
      ValueError: the batch is not a multiple of `group_size`.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    group_size: int | None = None
    frozen: bool = False
    scale_init: Initializer = jax.nn.initializers.ones
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, ..., C] -> [B, ..., C] in `dtype`."""
        x = jnp.asarray(x)
        features = x.shape[-1:]
        scale = self.param("scale", self.scale_init, features, jnp.float32)
        bias = self.param("bias", jax.nn.initializers.zeros, features, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, features, jnp.float32)

        if not train or self.frozen:
            return self._normalise(x, mean.value, var.value, scale, bias)

        batch = x.shape[0]
        group = batch if self.group_size is None else self.group_size
        if group < 1 or batch % group:
            raise ValueError(f"group_size {group}: does not divide the batch of {batch} examples")
        grouped = x.reshape(batch // group, group, *x.shape[1:])
        axes = tuple(range(1, grouped.ndim - 1))
        # Two passes: E[x^2] - E[x]^2 in float32 loses the variance of a map whose mean is large.
        wide = grouped.astype(at_least_float32(x.dtype))
        batch_mean = wide.mean(axes, keepdims=True)
        batch_var = jnp.square(wide - batch_mean).mean(axes, keepdims=True)
        if not self.is_initializing():
            count = grouped.size // (grouped.shape[0] * grouped.shape[-1])
            unbiased = batch_var * (count / max(count - 1, 1))
            self._update(mean, batch_mean)
            self._update(var, unbiased)
        y = self._normalise(grouped, batch_mean, batch_var, scale, bias)
        return y.reshape(x.shape)

    def _update(self, running: nn.Variable, value: jax.Array) -> None:
        value = lax.stop_gradient(value.mean(range(value.ndim - 1))).astype(running.value.dtype)
        running.value = self.momentum * running.value + (1 - self.momentum) * value

    def _normalise(
        self, x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array
    ) -> jax.Array:
        wide = at_least_float32(x.dtype)
        factor = scale * lax.rsqrt(var.astype(wide) + self.epsilon)
        return ((x.astype(wide) - mean) * factor + bias).astype(self.dtype)


class GroupNorm(nn.Module):
    """Normalises each example over space and groups of channels (Wu 2018, arXiv:1803.08494).

    Parameters `scale`, `bias` float32 [C]; statistics are as wide as BatchNorm's. `train` changes
    nothing: it is here so that either norm fits where the other does.

    Raises:
      ValueError: the channels are not a multiple of `groups`.
    """

    groups: int = 32
    epsilon: float = 1e-5
    scale_init: Initializer = jax.nn.initializers.ones
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, ..., C] -> [B, ..., C] in `dtype`."""
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(f"groups {self.groups}: does not divide {channels} channels")
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", jax.nn.initializers.zeros, (channels,), jnp.float32)
        wide = x.astype(at_least_float32(x.dtype))
        wide = wide.reshape(x.shape[0], -1, self.groups, channels // self.groups)
        centred = wide - wide.mean((1, 3), keepdims=True)
        var = jnp.square(centred).mean((1, 3), keepdims=True)
        y = (centred * lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (y * scale + bias).astype(self.dtype)
