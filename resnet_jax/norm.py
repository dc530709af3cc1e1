"""BatchNorm, with explicit running statistics, and GroupNorm."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.conv import convolve, materialised_gradient
from resnet_jax.init import Initializer
from resnet_jax.remat import save_for_backward


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """The type for sums over a map: float32, or float64 if `dtype` is float64."""
    return jnp.promote_types(dtype, jnp.float32)


def values_per_channel(shape: tuple[int, ...], group_size: int | None) -> int:
    """Number of values of a map [B, ..., C] in the statistics of one channel and group."""
    return (shape[0] if group_size is None else group_size) * math.prod(shape[1:-1])


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015, arXiv:1502.03167).

    Training normalises by the batch's mean and biased variance. It updates the running averages:
    `running = momentum * running + (1 - momentum) * batch`, with the *unbiased* variance of the
    batch (factor n / (n - 1)), as in torch. Evaluation, and a `frozen` layer, normalise by the
    running averages and do not change them.

    Statistics are computed in float32, or in `dtype` if that is wider.

    Parameters: `scale`, `bias` float32 [C]. Variables: `batch_stats/{mean, var}` float32 [C].

    Args:
      momentum: share of the running averages that a step keeps (torch's momentum is 1 minus this).
      epsilon: added to the variance under the square root.
      group_size: examples per group with separate statistics ("ghost" batches; per-device
        statistics if it is the batch of a device). The running averages use the mean over groups.
        None: the whole batch; under `jit` over a mesh, the global batch.
      frozen: uses the running averages in training too.
      fuse: a network may compute a 1x1 convolution and the BatchNorm after it as one layer (see
        `kernel` in `__call__`). Otherwise the convolution is rounded to `dtype` before the norm.
      scale_init, bias_init: initialisers of `scale` and `bias`.
      dtype: of the output.

    Raises:
      ValueError: the batch is not a multiple of `group_size`; or in training, a group has only one
        value for each channel (one example of one pixel), whose variance is always 0.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    group_size: int | None = None
    frozen: bool = False
    fuse: bool = True
    scale_init: Initializer = jax.nn.initializers.ones
    bias_init: Initializer = jax.nn.initializers.zeros
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, kernel: jax.Array | None = None) -> jax.Array:
        """[B, ..., C] -> [B, ..., C] in `dtype`.

        With a `kernel` K [C_in, C], x is [B, H, W, C_in], and its 1x1 convolution y = x K is
        normalised. The result is the same. If C_in < C, it takes less memory traffic: mean(y) =
        mean(x) K and var(y) = diag(K' cov(x) K) are known before y. The normalisation becomes part
        of the kernel, and no pass, forward or backward, reads y again. A float32 map is convolved
        first and then normalised: see `_gram_is_exact`.

        Args:
          x: the input.
          train: whether to normalise by the batch and update the running averages.
          kernel: the kernel of a 1x1 convolution before the norm.
        """
        x = jnp.asarray(x)
        features = x.shape[-1:] if kernel is None else kernel.shape[-1:]
        scale = self.param("scale", self.scale_init, features, jnp.float32)
        bias = self.param("bias", self.bias_init, features, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, features, jnp.float32)

        by_running = not train or self.frozen
        if kernel is not None and (by_running or not _gram_is_exact(x.dtype)):
            x, kernel = save_for_backward(convolve(x, kernel.astype(x.dtype)[None, None])), None
        if by_running:
            return self._normalise(x, mean.value, var.value, scale, bias)

        grouped = self._grouped(x)
        if kernel is None:
            batch_mean, batch_var = map(save_for_backward, _moments(grouped, mean.value))
            y = self._normalise(grouped, batch_mean, batch_var, scale, bias)
        else:
            mean_in, batch_mean, batch_var = map(
                save_for_backward, _moments_of_product(grouped, kernel)
            )
            factor = scale * lax.rsqrt(batch_var + self.epsilon)
            # x is centred before the product. Otherwise the gradient of the factor would be the
            # small difference of two sums that were rounded to `dtype`. The shift is a value of
            # `dtype`; otherwise all zeros would be rounded in the same direction.
            shift = lax.stop_gradient(mean_in.astype(x.dtype))
            by = kernel * factor
            offset = bias - (mean_in - shift) @ by
            y = (save_for_backward(_product(grouped - shift, by)) + offset).astype(self.dtype)
        # Two sums and the gradient of x read the gradient of y, which the next layers compute.
        y = materialised_gradient(y, scale)
        if not self.is_initializing():
            count = values_per_channel(x.shape, self.group_size)
            self._update(mean, batch_mean)
            self._update(var, batch_var * (count / (count - 1)))
        return y.reshape(*x.shape[:-1], *features)

    def _grouped(self, x: jax.Array) -> jax.Array:
        """[B, ..., C] -> [groups, examples, ..., C]."""
        batch = x.shape[0]
        group = batch if self.group_size is None else self.group_size
        if group < 1 or batch % group:
            raise ValueError(f"group_size {group}: does not divide the batch of {batch} examples")
        if values_per_channel(x.shape, self.group_size) == 1 and not self.is_initializing():
            raise ValueError(
                f"{'/'.join(self.path) or 'BatchNorm'}: one value per channel (groups of 1 "
                "example, 1 pixel each): training needs at least 2, because the variance of one is "
                "0. Use larger groups, larger images, freeze_norm=True or norm='group'"
            )
        return x.reshape(batch // group, group, *x.shape[1:])

    def _update(self, running: nn.Variable[jax.Array], value: jax.Array) -> None:
        value = lax.stop_gradient(value.mean(range(value.ndim - 1))).astype(running.value.dtype)
        running.value = self.momentum * running.value + (1 - self.momentum) * value

    def _normalise(
        self, x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array
    ) -> jax.Array:
        wide = at_least_float32(x.dtype)
        factor = scale * lax.rsqrt(var.astype(wide) + self.epsilon)
        return ((x.astype(wide) - mean) * factor + bias).astype(self.dtype)


def _moments(x: jax.Array, running_mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of [G, B, ..., C] over all axes but the first and the last.

    One pass over x - shift. Without the shift, E[x^2] - E[x]^2 would lose the variance if the mean
    is many standard deviations. The shift is the mean of the first example of each group. Its
    distance from the mean is at most sqrt(B) standard deviations, so the relative error of the
    variance is at most about B * 2^-24, from the first step on.

    A bfloat16 map is shifted by the running mean, which is known before the map. On a
    TPU the sums then become part of the previous convolution, and the map is not read again. Eight
    bits cannot represent a mean of more than a few hundred standard deviations. So the error of the
    variance is at most one or two per cent, until the running mean has converged.
    """
    axes = tuple(range(1, x.ndim - 1))
    wide = x.astype(at_least_float32(x.dtype))
    narrow = x.dtype == jnp.bfloat16
    shift = running_mean if narrow else save_for_backward(wide[:, :1].mean(axes, keepdims=True))
    shift = lax.stop_gradient(shift)
    moved = wide - shift
    mean = moved.mean(axes, keepdims=True)
    square = jnp.square(moved).mean(axes, keepdims=True)
    return mean + shift, jnp.maximum(square - jnp.square(mean), 0)


def _gram_is_exact(dtype: jnp.dtype) -> bool:
    """Whether variances from the Gram matrix of a map of this type are exact enough.

    If the part that channels share is r times the part in which they differ, a variance is the
    difference of terms that are r^2 times larger. float32 sums of 8-bit numbers (bfloat16) have
    enough digits for that, and so does float64. float32 sums of float16 or float32 numbers do not.
    """
    return dtype in (jnp.bfloat16, jnp.float64)


def _moments_of_product(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Means of x and moments of x @ kernel in each group, from the Gram matrix of x.

    Args:
      x: [G, B, H, W, C_in].
      kernel: [C_in, C].

    Returns:
      Means of x [G, 1, 1, 1, C_in]; means and biased variances of x @ kernel, both [G, 1, 1, 1, C].
    """
    count = x.size // (x.shape[0] * x.shape[-1])
    mean_in = x.astype(at_least_float32(x.dtype)).mean((1, 2, 3))
    covariance = _gram(x) / count - mean_in[:, :, None] * mean_in[:, None]
    with jax.default_matmul_precision("highest"):
        mean = mean_in @ kernel
        var = jnp.maximum((kernel * (covariance @ kernel)).sum(1), 0)
    each = (slice(None), None, None, None)
    return mean_in[each], mean[each], var[each]


@jax.custom_jvp
def _gram(x: jax.Array) -> jax.Array:
    """x' x of each group: [G, B, H, W, C] -> [G, C, C], at least float32."""
    return _outer(x, x, at_least_float32(x.dtype))


@_gram.defjvp
def _gram_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # The tangent is rounded to the type of the map. So its transpose, the gradient, is a product in
    # that type and not in float32.
    (x,), (t,) = primals, tangents
    half = _outer(x, t, x.dtype)
    gram = _gram(x)
    return gram, (half + half.swapaxes(1, 2)).astype(gram.dtype)


def _outer(a: jax.Array, b: jax.Array, dtype: jnp.dtype) -> jax.Array:
    summed = (1, 2, 3)
    dimensions = ((summed, summed), ((0,), (0,)))
    return lax.dot_general(a, b, dimensions, lax.Precision.HIGHEST, preferred_element_type=dtype)


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[G, B, H, W, C_in], [G, 1, 1, C_in, C] -> [G, B, H, W, C], in the type of x."""
    if x.dtype != kernel.dtype:
        return _rounded_product(x, kernel)
    if x.shape[0] == 1:
        return convolve(x[0], kernel[0])[None]
    return jnp.einsum("gbhwc,gcf->gbhwf", x, kernel[:, 0, 0])


@jax.custom_vjp
def _rounded_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Product with the kernel rounded to the type of x; the kernel's gradient is not rounded.

    The gradient of the kernel's factor is a sum over it. And over a mesh, sums of one type share
    one all-reduce: those of the kernel and of the bias.
    """
    return _product(x, kernel.astype(x.dtype))


def _rounded_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _rounded_product(x, kernel), (x, kernel)


def _rounded_backward(saved: Any, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    by_kernel = _outer(x, d, kernel.dtype)[:, None, None]
    return _product(d, kernel.swapaxes(-1, -2).astype(d.dtype)), by_kernel


_rounded_product.defvjp(_rounded_forward, _rounded_backward)


class GroupNorm(nn.Module):
    """Normalises each example over space and groups of channels (Wu 2018, arXiv:1803.08494).

    Statistics are computed in float32, or in `dtype` if that is wider. The argument `train` has no
    effect; GroupNorm accepts it so that it can replace BatchNorm.

    Parameters: `scale`, `bias` float32 [C].

    Args:
      groups: groups of channels.
      epsilon: added to the variance under the square root.
      scale_init, bias_init: initialisers of `scale` and `bias`.
      dtype: of the output.

    Raises:
      ValueError: the channels are not a multiple of `groups`.
    """

    groups: int = 32
    epsilon: float = 1e-5
    scale_init: Initializer = jax.nn.initializers.ones
    bias_init: Initializer = jax.nn.initializers.zeros
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, ..., C] -> [B, ..., C] in `dtype`."""
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(f"groups {self.groups}: does not divide {channels} channels")
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", self.bias_init, (channels,), jnp.float32)
        wide = x.astype(at_least_float32(x.dtype))
        wide = wide.reshape(x.shape[0], -1, self.groups, channels // self.groups)
        centred = wide - save_for_backward(wide.mean((1, 3), keepdims=True))
        var = save_for_backward(jnp.square(centred).mean((1, 3), keepdims=True))
        y = (centred * lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (y * scale + bias).astype(self.dtype)
