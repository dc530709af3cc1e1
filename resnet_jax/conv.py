"""The convolution and the pools: explicit symmetric padding, so that published weights line up."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.init import Initializer, kaiming_normal


class Conv(nn.Module):
    """2-D convolution of NHWC maps with a square kernel and no bias.

    Padding is `kernel_size // 2` on every side. XLA's SAME padding puts the odd pixel of a strided
    convolution on the far side only, which shifts the map against every published weight.
    A bias would be absorbed by the norm that follows.

    Parameters: `kernel` float32 [k, k, C_in / groups, features].
    """

    features: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    kernel_init: Initializer = kaiming_normal()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C_in] -> [B, ceil(H / stride), ceil(W / stride), features], in `dtype`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        pad = self.kernel_size // 2
        return lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )


def max_pool(x: jax.Array) -> jax.Array:
    """The stem's 3x3 max-pooling with stride 2 and padding 1: [B, H, W, C] -> [B, H/2, W/2, C]."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def avg_pool_down(x: jax.Array) -> jax.Array:
    """2x2 average-pooling with stride 2; an odd last row or column averages what is there."""
    pad = tuple((0, side % 2) for side in x.shape[1:3])
    y = nn.avg_pool(x, (2, 2), strides=(2, 2), padding=pad, count_include_pad=False)
    return y.astype(x.dtype)  # nn.avg_pool divides by counts in float32
