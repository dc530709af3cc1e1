"""The convolution and the pools: explicit symmetric padding, so that published weights line up.

On a GPU and a TPU, convolutions and pools are XLA's. On a CPU, XLA's are very slow for some shapes,
and `_cpu_form` has another way to compute those; `docs/results/cpu.md` has the measurements.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.init import Initializer, kaiming_normal
from resnet_jax.remat import save_for_backward


class Conv(nn.Module):
    """2-D convolution of NHWC maps with a square kernel and no bias.

    Padding is `dilation * (kernel_size // 2)` on every side. XLA's SAME padding puts the odd pixel
    of a strided convolution on the far side only, which shifts the map against every published
    weight.
    A bias would be absorbed by the norm that follows.

    `standardize` uses each output's kernel with mean 0 and variance 1 over its inputs (weight
    standardisation, Qiao 2019, arXiv:1903.10520, equation 10, with timm's epsilon for BiT).
    `in_loop` is `convolve`'s.

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
    in_loop: bool = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C_in] -> [B, ceil(H / stride), ceil(W / stride), features], in `dtype`."""
        kernel = self.kernel(x.shape[-1]).astype(self.dtype)
        x, shape = x.astype(self.dtype), (self.stride, self.groups, self.dilation)
        return save_for_backward(convolve(x, kernel, *shape, in_loop=self.in_loop))

    @nn.compact
    def kernel(self, channels: int) -> jax.Array:
        """What maps of so many channels are convolved with, standardised if asked, in float32."""
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
    in_loop: bool = False,
) -> jax.Array:
    """2-D convolution, padded by `dilation * (k // 2)` on every side.

    [B, H, W, C_in], [k, k, C_in / groups, C_out] -> [B, ceil(H / stride), ceil(W / stride), C_out].
    The same to rounding on every platform; differentiable any number of times, in both modes.

    `in_loop` is for the body of a loop, of stride 1, where XLA's CPU compiler needs the gradients
    written out: they can be differentiated again, but not in forward mode.
    """
    form = _cpu_form(x.shape, kernel.shape, stride, groups)
    if in_loop:
        looped: dict[Any, Any] = {_apart: _written_out, _blocks: _blocks_in_loop}
        form = looped.get(form, form)
    cpu, native = (_with(f, stride, groups, dilation) for f in (form, _native))
    return lax.platform_dependent(x, kernel, cpu=cpu, default=native)


@cache
def _with(
    form: Callable[..., jax.Array], stride: int, groups: int, dilation: int
) -> Callable[..., jax.Array]:
    """The same object for the same arguments: JAX traces each function once for each shape."""
    return partial(form, stride=stride, groups=groups, dilation=dilation)


def _native(
    x: jax.Array, kernel: jax.Array, *, stride: int, groups: int, dilation: int
) -> jax.Array:
    pad = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _cpu_form(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, groups: int
) -> Callable[..., jax.Array]:
    """How to compute a convolution of this shape on a CPU."""
    if groups > 1:
        return _blocks
    if kernel[0] == 1:
        return _pointwise
    pixels = -(-shape[1] // stride) * -(-shape[2] // stride)
    if pixels <= 4 or (pixels <= 49 and kernel[2] >= 256):
        return _patches
    return _apart


def _apart(
    x: jax.Array, kernel: jax.Array, *, stride: int, groups: int, dilation: int
) -> jax.Array:
    """XLA's own, but its weight gradient takes the input as it is in memory.

    It needs the input with the batch as the last axis, and XLA's CPU compiler would compute what
    comes before, down to the beginning of the stage, once more in that slow order.
    """
    assert groups == 1, f"groups {groups}: see _blocks"
    return _dense(x, kernel, stride, dilation)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _dense(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    return _native(x, kernel, stride=stride, groups=1, dilation=dilation)


@_dense.defjvp
def _dense_jvp(
    stride: int, dilation: int, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    by_kernel = _dense(_in_memory(x, kernel), dkernel, stride, dilation)
    # The transpose of a convolution with strides is a slow one where channels are few.
    strides = stride > 1 and kernel.shape[0] == 3
    by_x = (_over_patches if strides else _dense)(dx, kernel, stride, dilation)
    return _dense(x, kernel, stride, dilation), by_x + by_kernel


def _over_patches(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    taps = _taps(x, kernel.shape[0], stride, dilation)
    return jnp.concatenate(taps, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _in_memory(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x itself, which is not computed again where it is used: nothing is fused across a condition.

    NaN where the kernel is not finite, which nobody meets; were both branches alike, there would be
    no condition left. It looks at the kernel, which every device has: to look at x would be a
    collective.
    """
    there = kernel[(0,) * kernel.ndim] < jnp.inf
    return lax.cond(there, lambda x: x, lambda x: x * jnp.nan, x)


def materialised_gradient(x: jax.Array, parameter: jax.Array) -> jax.Array:
    """x; on a CPU its gradient is computed once, and not once more wherever it is used.

    `parameter` is anything finite of the layer's that every device has (see `_in_memory`).
    """
    return lax.platform_dependent(x, parameter, cpu=_gradient_in_memory, default=_first)


def _first(x: jax.Array, _: jax.Array) -> jax.Array:
    return x


@jax.custom_jvp
def _gradient_in_memory(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x, whose gradient is not computed again where it is used."""
    return x


@_gradient_in_memory.defjvp
def _gradient_in_memory_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, _) = primals, tangents
    return x, _in_memory(dx, kernel)


def _written_out(
    x: jax.Array, kernel: jax.Array, *, stride: int, groups: int, dilation: int
) -> jax.Array:
    """A dense convolution of stride 1 whose gradients are such ones too, with the axes in place.

    XLA's CPU compiler moves the axes of a convolution to where its library takes them outside of
    loops only; what it emits by itself in a loop's body is 30 times slower.
    """
    assert stride == groups == 1, f"stride {stride}, groups {groups}: not in a loop"
    return _of_stride_one(x, kernel, dilation)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _of_stride_one(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    return _native(x, kernel, stride=1, groups=1, dilation=dilation)


def _of_stride_one_forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, Any]:
    return _of_stride_one(x, kernel, dilation), (x, kernel)


def _of_stride_one_backward(dilation: int, saved: Any, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    by_x = _of_stride_one(d, kernel[::-1, ::-1].swapaxes(2, 3), dilation)
    pad = dilation * (kernel.shape[0] // 2)
    by_kernel = lax.conv_general_dilated(  # over the batch, of maps as large as the kernel
        x.transpose(3, 1, 2, 0),
        d.transpose(1, 2, 0, 3),
        window_strides=(dilation, dilation),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return by_x, by_kernel.transpose(1, 2, 0, 3)


_of_stride_one.defvjp(_of_stride_one_forward, _of_stride_one_backward)


def _pointwise(
    x: jax.Array, kernel: jax.Array, *, stride: int, groups: int, dilation: int
) -> jax.Array:
    """A 1x1 convolution as the matrix product that it is; XLA's weight gradient is no such."""
    return _matmul(x[:, ::stride, ::stride], kernel[0, 0])


def _patches(
    x: jax.Array, kernel: jax.Array, *, stride: int, groups: int, dilation: int
) -> jax.Array:
    """A convolution as one matrix product over copies of the map shifted by each tap."""
    taps = _taps(x, kernel.shape[0], stride, dilation)
    return _matmul(jnp.concatenate(taps, -1), kernel.reshape(-1, kernel.shape[-1]))


def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[B, H, W, C], [C, F] -> [B, H, W, F], with the output's gradient as it is in memory.

    The weight gradient is the product of that, with the pixels as the last axis, and the input.
    XLA's CPU compiler would compute the backward pass of what follows once more in that slow order;
    and if it saw the gradient, [F, C], being turned, it would turn the input instead: welcome only
    where there are few pixels, and the kernel is the larger of the two.
    """
    if x.size // x.shape[-1] <= 4 * kernel.shape[1]:
        y = jnp.einsum("bhwc,cf->bhwf", x, kernel)
    else:
        y = jnp.einsum("bhwc,fc->bhwf", x, _gradient_in_memory(kernel.T, kernel))
    return _gradient_in_memory(y, kernel)


def _blocks(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    groups: int,
    dilation: int,
    dense: Callable[..., jax.Array] = _native,
) -> jax.Array:
    """A grouped convolution as dense ones over runs of groups, with zeros between the groups.

    XLA computes the weight gradient of each group by itself, hundreds of times slower.
    """
    width, out = kernel.shape[2], kernel.shape[3] // groups
    run = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * width <= 64))
    same = jnp.eye(run, dtype=kernel.dtype)
    dense = partial(dense, stride=stride, groups=1, dilation=dilation)
    maps = []
    for i in range(groups // run):
        taps = kernel[..., i * run * out : (i + 1) * run * out]
        taps = taps.reshape(*kernel.shape[:2], 1, width, run, out) * same[:, None, :, None]
        taps = taps.reshape(*kernel.shape[:2], run * width, run * out)
        maps.append(dense(x[..., i * run * width : (i + 1) * run * width], taps))
    return jnp.concatenate(maps, -1)


_blocks_in_loop = partial(_blocks, dense=_written_out)


def _taps(x: jax.Array, size: int, stride: int, dilation: int) -> list[jax.Array]:
    """The pixels under each tap of a kernel, row by row: size * size maps [B, H', W', C]."""
    pad = dilation * (size // 2)
    rows, columns = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def tap(down: int, across: int) -> jax.Array:
        bottom, right = down + (rows - 1) * stride + 1, across + (columns - 1) * stride + 1
        return padded[:, down:bottom:stride, across:right:stride]

    return [tap(i * dilation, j * dilation) for i in range(size) for j in range(size)]


def max_pool(x: jax.Array, stride: int = 2, *, zero_pad: bool = False) -> jax.Array:
    """The stem's 3x3 max-pooling with padding 1: [B, H, W, C] -> [B, H / stride, W / stride, C].

    `zero_pad` pads with zeros, which win over negative values (BiT pools before any activation).
    """
    return lax.platform_dependent(
        x,
        cpu=partial(_max_of_taps, stride=stride, outside=0.0 if zero_pad else -jnp.inf),
        default=partial(_native_max_pool, stride=stride, zero_pad=zero_pad),
    )


def _native_max_pool(x: jax.Array, *, stride: int, zero_pad: bool) -> jax.Array:
    pad = ((1, 1), (1, 1))
    if zero_pad:
        x, pad = jnp.pad(x, ((0, 0), *pad, (0, 0))), ((0, 0), (0, 0))
    return nn.max_pool(x, (3, 3), strides=(stride, stride), padding=pad)


def _max_of_taps(x: jax.Array, *, stride: int, outside: float) -> jax.Array:
    """Max-pooling whose gradient is that of XLA's, the first of equal pixels taking it all, and
    does not need its select-and-scatter, which a CPU runs pixel by pixel.

    Three pixels of a row at a time, and then three rows: six maps to compare and to put gradients
    into, most of them smaller, instead of nine.
    """
    for axis in (2, 1):
        side = x.shape[axis]
        ends = [(int(i == axis), int(i == axis)) for i in range(x.ndim)]
        padded = jnp.pad(x, ends, constant_values=outside)
        last = (-(-side // stride) - 1) * stride + 1
        x, *others = (
            lax.slice_in_dim(padded, tap, tap + last, stride, axis=axis) for tap in range(3)
        )
        for tap in others:
            x = jnp.where((tap > x) | jnp.isnan(tap), tap, x)
    return x


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
