"""Convolutions and max pooling in the forms that XLA's CPU compiler runs fast.

Each form gives the values and gradients of XLA's own operation, to rounding. On a CPU, XLA computes
some of these, and above all their gradients, many times slower than the forms here.
`docs/results/cpu.md` has the measurements. Other platforms do not use this file.

A form takes `x` [B, H, W, C_in], `kernel` [k, k, C_in / groups, C_out] and the keywords `stride`,
`groups` and `dilation`. It returns [B, ceil(H / stride), ceil(W / stride), C_out].
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def xla_conv(
    x: jax.Array, kernel: jax.Array, *, stride: int, groups: int, dilation: int
) -> jax.Array:
    """XLA's convolution, padded by `dilation * (k // 2)` on every side."""
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


def choose_form(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, groups: int, in_scan: bool
) -> Callable[..., jax.Array]:
    """The form for an input and a kernel of these shapes; `in_scan`: in the body of a loop."""
    if groups > 1:
        return grouped_in_scan if in_scan else grouped_as_dense
    if kernel[0] == 1:
        return pointwise
    pixels = -(-shape[1] // stride) * -(-shape[2] // stride)
    if pixels <= 4 or (pixels <= 49 and kernel[2] >= 256):
        return im2col
    return dense_in_scan if in_scan else dense


def dense(x: jax.Array, kernel: jax.Array, *, stride: int, groups: int, dilation: int) -> jax.Array:
    """XLA's convolution, whose weight gradient reads a materialised input.

    The weight gradient needs the input with the batch as its last axis. XLA's CPU compiler would
    fuse that transposition with the layers before it, back to the start of the stage, and compute
    them again in this slow order.
    """
    assert groups == 1, f"groups {groups}: use grouped_as_dense"
    return _dense(x, kernel, stride, dilation)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _dense(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    return xla_conv(x, kernel, stride=stride, groups=1, dilation=dilation)


@_dense.defjvp
def _dense_jvp(
    stride: int, dilation: int, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    by_kernel = _dense(materialised(x, kernel), dkernel, stride, dilation)
    # The transpose of a strided convolution is slow where channels are few.
    strides = stride > 1 and kernel.shape[0] == 3
    by_x = (_im2col_matmul if strides else _dense)(dx, kernel, stride, dilation)
    return _dense(x, kernel, stride, dilation), by_x + by_kernel


def _im2col_matmul(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    shifted = _shifted_maps(x, kernel.shape[0], stride, dilation)
    return jnp.concatenate(shifted, -1) @ kernel.reshape(-1, kernel.shape[-1])


def materialised(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x, written to memory once: XLA does not fuse operations across a condition.

    The other branch returns NaN. It runs only if the kernel is infinite or NaN. If both branches
    were the same, XLA would remove the condition. The condition reads the kernel, because every
    device has a copy of it; reading x would need communication between devices.
    """
    is_finite = kernel[(0,) * kernel.ndim] < jnp.inf
    return lax.cond(is_finite, lambda x: x, lambda x: x * jnp.nan, x)


@jax.custom_jvp
def materialised_gradient(x: jax.Array, parameter: jax.Array) -> jax.Array:
    """x, whose gradient is written to memory once and not computed again by each reader.

    `parameter` is any finite parameter of the layer; every device has a copy of it (see
    `materialised`).
    """
    return x


@materialised_gradient.defjvp
def _materialised_gradient_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (x, parameter), (dx, _) = primals, tangents
    return x, materialised(dx, parameter)


def dense_in_scan(
    x: jax.Array, kernel: jax.Array, *, stride: int, groups: int, dilation: int
) -> jax.Array:
    """A dense convolution of stride 1 for the body of a loop; reverse-mode gradients only.

    Its gradients are explicit convolutions in the axis order of XLA's CPU library. Outside of
    loops, XLA's CPU compiler reorders the axes itself. Inside it does not, and the code that it
    generates instead is 30 times slower.
    """
    assert stride == groups == 1, f"stride {stride}, groups {groups}: both must be 1 in a loop"
    return _stride_one(x, kernel, dilation)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _stride_one(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    return xla_conv(x, kernel, stride=1, groups=1, dilation=dilation)


def _stride_one_forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, Any]:
    return _stride_one(x, kernel, dilation), (x, kernel)


def _stride_one_backward(dilation: int, saved: Any, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    by_x = _stride_one(d, kernel[::-1, ::-1].swapaxes(2, 3), dilation)
    pad = dilation * (kernel.shape[0] // 2)
    # Sums over the batch; the output has the size of the kernel.
    by_kernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        d.transpose(1, 2, 0, 3),
        window_strides=(dilation, dilation),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return by_x, by_kernel.transpose(1, 2, 0, 3)


_stride_one.defvjp(_stride_one_forward, _stride_one_backward)


def pointwise(
    x: jax.Array, kernel: jax.Array, *, stride: int, groups: int, dilation: int
) -> jax.Array:
    """A 1x1 convolution as a matrix product; XLA's weight gradient of it is a convolution."""
    return _matmul(x[:, ::stride, ::stride], kernel[0, 0])


def im2col(
    x: jax.Array, kernel: jax.Array, *, stride: int, groups: int, dilation: int
) -> jax.Array:
    """A convolution as one matrix product over k * k shifted copies of the map."""
    shifted = _shifted_maps(x, kernel.shape[0], stride, dilation)
    return _matmul(jnp.concatenate(shifted, -1), kernel.reshape(-1, kernel.shape[-1]))


def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[B, H, W, C], [C, F] -> [B, H, W, F], with a materialised gradient of the output.

    The weight gradient is the product of the output's gradient, with pixels as the last axis, and
    the input. Without materialisation, XLA's CPU compiler would compute the backward pass of the
    next layers again in that slow order.

    The weight gradient [F, C] is materialised before its transposition. Otherwise XLA would
    transpose the input instead, which is faster only for few pixels and a large kernel.
    """
    if x.size // x.shape[-1] <= 4 * kernel.shape[1]:
        y = jnp.einsum("bhwc,cf->bhwf", x, kernel)
    else:
        y = jnp.einsum("bhwc,fc->bhwf", x, materialised_gradient(kernel.T, kernel))
    return materialised_gradient(y, kernel)


def grouped_as_dense(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    groups: int,
    dilation: int,
    dense: Callable[..., jax.Array] = xla_conv,
) -> jax.Array:
    """A grouped convolution as `dense` convolutions of several groups, at most 64 channels each.

    The kernel is zero between groups. XLA computes the weight gradient of each group separately,
    hundreds of times slower.
    """
    width, out = kernel.shape[2], kernel.shape[3] // groups
    merged = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * width <= 64))
    same_group = jnp.eye(merged, dtype=kernel.dtype)
    convolve = partial(dense, stride=stride, groups=1, dilation=dilation)
    maps = []
    for i in range(groups // merged):
        block = kernel[..., i * merged * out : (i + 1) * merged * out]
        block = block.reshape(*kernel.shape[:2], 1, width, merged, out)
        block = block * same_group[:, None, :, None]
        block = block.reshape(*kernel.shape[:2], merged * width, merged * out)
        maps.append(convolve(x[..., i * merged * width : (i + 1) * merged * width], block))
    return jnp.concatenate(maps, -1)


grouped_in_scan = partial(grouped_as_dense, dense=dense_in_scan)


def _shifted_maps(x: jax.Array, size: int, stride: int, dilation: int) -> list[jax.Array]:
    """The pixels under each tap of a kernel, row by row: size * size maps [B, H', W', C]."""
    pad = dilation * (size // 2)
    rows, columns = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def shifted(down: int, across: int) -> jax.Array:
        bottom, right = down + (rows - 1) * stride + 1, across + (columns - 1) * stride + 1
        return padded[:, down:bottom:stride, across:right:stride]

    return [shifted(i * dilation, j * dilation) for i in range(size) for j in range(size)]


def shifted_max_pool(x: jax.Array, *, stride: int, padding: float) -> jax.Array:
    """3x3 max pooling as comparisons of shifted maps, padded by one pixel of value `padding`.

    Its gradient is XLA's: the first of equal pixels takes it all. It avoids XLA's
    select-and-scatter, which runs pixel by pixel on a CPU.

    Rows are pooled first and then columns, three maps at a time. That compares six maps, most of
    them smaller, instead of nine.
    """
    for axis in (2, 1):
        side = x.shape[axis]
        ends = [(int(i == axis), int(i == axis)) for i in range(x.ndim)]
        padded = jnp.pad(x, ends, constant_values=padding)
        last = (-(-side // stride) - 1) * stride + 1
        x, *others = (
            lax.slice_in_dim(padded, tap, tap + last, stride, axis=axis) for tap in range(3)
        )
        for tap in others:
            x = jnp.where((tap > x) | jnp.isnan(tap), tap, x)
    return x
