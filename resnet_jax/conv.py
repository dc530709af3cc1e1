"""The convolution module and pooling, with explicit symmetric padding as in published weights.

On a GPU and a TPU these are XLA's operations. On a CPU some of them take faster forms
(`resnet_jax.cpu_conv`).
"""

from collections.abc import Callable
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax import cpu_conv
from resnet_jax.init import Initializer, kaiming_normal
from resnet_jax.remat import save_for_backward


class Conv(nn.Module):
    """2-D convolution of NHWC maps with a square kernel and no bias.

    Padding is `dilation * (kernel_size // 2)` on every side. XLA's SAME padding puts the odd pixel
    of a strided convolution on the far side only, which shifts the map against every published
    weight. There is no bias, because the norm after the convolution would absorb it.

    Parameters: `kernel` float32 [k, k, C_in / groups, features].

    Args:
      features: channels of the output.
      kernel_size: side of the kernel, odd.
      stride: step between output pixels.
      groups: groups of channels that are convolved separately.
      dilation: distance between the taps of the kernel.
      standardize: scales the kernel of each output to mean 0 and variance 1 over its inputs (weight
        standardisation, Qiao 2019, arXiv:1903.10520, equation 10, with timm's epsilon for BiT).
      kernel_init: initialiser of the kernel.
      dtype: of the computation and of the output.
      in_scan: see `convolve`.
    """

    features: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    standardize: bool = False
    kernel_init: Initializer = kaiming_normal()
    dtype: jnp.dtype = jnp.float32
    in_scan: bool = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C_in] -> [B, ceil(H / stride), ceil(W / stride), features], in `dtype`."""
        kernel = self.kernel(x.shape[-1]).astype(self.dtype)
        x, shape = x.astype(self.dtype), (self.stride, self.groups, self.dilation)
        return save_for_backward(convolve(x, kernel, *shape, in_scan=self.in_scan))

    @nn.compact
    def kernel(self, channels: int) -> jax.Array:
        """The kernel for inputs of `channels` channels, standardised if requested, in float32."""
        shape = (self.kernel_size, self.kernel_size, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.standardize:
            centred = kernel - kernel.mean((0, 1, 2))
            kernel = centred * lax.rsqrt(jnp.square(centred).mean((0, 1, 2)) + 1e-8)
        return kernel


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    *,
    in_scan: bool = False,
) -> jax.Array:
    """2-D convolution, padded by `dilation * (k // 2)` on every side.

    The result is the same to rounding on every platform. It can be differentiated any number of
    times, in forward and reverse mode.

    Args:
      x: [B, H, W, C_in].
      kernel: [k, k, C_in / groups, C_out].
      stride: step between output pixels.
      groups: groups of channels that are convolved separately.
      dilation: distance between the taps of the kernel.
      in_scan: the convolution is in the body of a loop, with stride 1. On a CPU its gradients are
        then explicit convolutions, which cannot be differentiated in forward mode.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C_out].
    """
    form = cpu_conv.choose_form(x.shape, kernel.shape, stride, groups, in_scan)
    cpu, native = (_with(f, stride, groups, dilation) for f in (form, cpu_conv.xla_conv))
    return lax.platform_dependent(x, kernel, cpu=cpu, default=native)


@cache
def _with(
    form: Callable[..., jax.Array], stride: int, groups: int, dilation: int
) -> Callable[..., jax.Array]:
    """The same object for the same arguments: JAX traces each function once for each shape."""
    return partial(form, stride=stride, groups=groups, dilation=dilation)


def materialised_gradient(x: jax.Array, parameter: jax.Array) -> jax.Array:
    """x; on a CPU its gradient is computed once, and not again by each operation that reads it.

    `parameter` is any finite parameter of the layer (see `cpu_conv.materialised`).
    """
    return lax.platform_dependent(x, parameter, cpu=cpu_conv.materialised_gradient, default=_first)


def _first(x: jax.Array, _: jax.Array) -> jax.Array:
    return x


def max_pool(x: jax.Array, stride: int = 2, *, zero_pad: bool = False) -> jax.Array:
    """The stem's 3x3 max pooling: [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C].

    Args:
      x: [B, H, W, C].
      stride: step between output pixels.
      zero_pad: pads one pixel of zeros, which are larger than negative values (BiT pools before any
        activation). Otherwise the padding never is the maximum.
    """
    padding = 0.0 if zero_pad else -jnp.inf
    return lax.platform_dependent(
        x,
        cpu=partial(cpu_conv.shifted_max_pool, stride=stride, padding=padding),
        default=partial(_xla_max_pool, stride=stride, zero_pad=zero_pad),
    )


def _xla_max_pool(x: jax.Array, *, stride: int, zero_pad: bool) -> jax.Array:
    pad = ((1, 1), (1, 1))
    if zero_pad:
        x, pad = jnp.pad(x, ((0, 0), *pad, (0, 0))), ((0, 0), (0, 0))
    return nn.max_pool(x, (3, 3), strides=(stride, stride), padding=pad)


def avg_pool_down(x: jax.Array) -> jax.Array:
    """2x2 average pooling, stride 2: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C].

    At an odd last row or column, padding does not count in the average.
    """
    pad = tuple((0, side % 2) for side in x.shape[1:3])
    y = nn.avg_pool(x, (2, 2), strides=(2, 2), padding=pad, count_include_pad=False)
    return y.astype(x.dtype)  # nn.avg_pool divides by counts in float32


def avg_pool_same(x: jax.Array) -> jax.Array:
    """2x2 average pooling, stride 1: [B, H, W, C] -> [B, H, W, C].

    One row and one column of zeros at the far side count in the average.
    """
    return nn.avg_pool(x, (2, 2), padding=((0, 1), (0, 1)))


def anti_alias(x: jax.Array, kind: str, stride: int) -> jax.Array:
    """Low-pass filter, then stride (Zhang 2019, arXiv:1904.11486): [B, H, W, C] at 1 / stride.

    Args:
      x: [B, H, W, C].
      kind: "avg" averages stride x stride pixels and drops an odd last row or column; "blur" is the
        3x3 binomial filter with reflected edges.
      stride: step between output pixels.
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
