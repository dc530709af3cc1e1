"""The convolution and the pools: explicit symmetric padding, so that published weights line up."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.init import Initializer, kaiming_normal


class Conv(nn.Module):
    """2-D convolution of NHWC maps with a square kernel and no bias.

    Padding is `dilation * (kernel_size // 2)` on every side. XLA's SAME padding puts the odd pixel
    of a strided convolution on the far side only, which shifts the map against every published
    weight.
    A bias would be absorbed by the norm that follows.

    `standardize` uses each output's kernel with mean 0 and variance 1 over its inputs (weight
    standardisation, Qiao 2019, arXiv:1903.10520, equation 10, with timm's epsilon for BiT).

    Parameters: `kernel` float32 [k, k, C_in / groups, features].
    """

    features: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    standardize: bool = False
    kernel_init: Initializer = kaiming_normal()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C_in] -> [B, ceil(H / stride), ceil(W / stride), features], in `dtype`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.standardize:
            centred = kernel - kernel.mean((0, 1, 2))
            kernel = centred * lax.rsqrt(jnp.square(centred).mean((0, 1, 2)) + 1e-8)
        pad = self.dilation * (self.kernel_size // 2)
        return lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            rhs_dilation=(self.dilation, self.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )


def max_pool(x: jax.Array, stride: int = 2, *, zero_pad: bool = False) -> jax.Array:
    """The stem's 3x3 max-pooling with padding 1: [B, H, W, C] -> [B, H / stride, W / stride, C].

    `zero_pad` pads with zeros, which win over negative values (BiT pools before any activation).
    """
    pad = ((1, 1), (1, 1))
    if zero_pad:
        x, pad = jnp.pad(x, ((0, 0), *pad, (0, 0))), ((0, 0), (0, 0))
    return nn.max_pool(x, (3, 3), strides=(stride, stride), padding=pad)


def avg_pool_down(x: jax.Array) -> jax.Array:
    """2x2 average-pooling with stride 2; an odd last row or column averages what is there."""
    pad = tuple((0, side % 2) for side in x.shape[1:3])
    y = nn.avg_pool(x, (2, 2), strides=(2, 2), padding=pad, count_include_pad=False)
    return y.astype(x.dtype)  # nn.avg_pool divides by counts in float32


def avg_pool_same(x: jax.Array) -> jax.Array:
    """2x2 average-pooling with stride 1; a row and a column of zeros count at the far side."""
    return nn.avg_pool(x, (2, 2), padding=((0, 1), (0, 1)))


def anti_alias(x: jax.Array, kind: str, stride: int) -> jax.Array:
    """Low-pass filter and stride (Zhang 2019, arXiv:1904.11486): [B, H, W, C] at 1 / stride.

    "avg" averages stride x stride pixels and leaves out an odd last row or column; "blur" is the
    3x3 binomial filter over reflected edges.
    """
    if kind == "avg":
        return nn.avg_pool(x, (stride, stride), strides=(stride, stride))
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    for axis in (1, 2):
        a, b, c = (
            lax.slice_in_dim(x, i, x.shape[axis] - 2 + i, stride, axis=axis) for i in range(3)
        )
        x = 0.25 * (a + c) + 0.5 * b
    return x
