"""Convolution and pools against loops over pixels; whole numbers make the comparison exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.conv import Conv, avg_pool_down, max_pool
from resnet_jax.init import small_normal, zeros

SIDES = [(8, 9), (9, 8), (1, 2)]  # even and odd, both ways round; smaller than the kernel


def integers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int, groups: int = 1) -> np.ndarray:
    """Output pixel (i, j) is centred on input pixel (stride * i, stride * j)."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    (batch, height, width, _), (size, _, inputs, features) = x.shape, kernel.shape
    reach, outputs = size // 2, features // groups
    out = np.zeros((batch, -(-height // stride), -(-width // stride), features))
    for i, j, u, v in np.ndindex(*out.shape[1:3], size, size):
        row, column = stride * i + u - reach, stride * j + v - reach
        if not (0 <= row < height and 0 <= column < width):
            continue
        for g in range(groups):
            pixels = x[:, row, column, g * inputs : (g + 1) * inputs]
            to = slice(g * outputs, (g + 1) * outputs)
            out[:, i, j, to] += pixels @ kernel[u, v, :, to]
    return out


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_padding_is_symmetric(size, stride, sides):
    x, kernel = integers(0, (2, *sides, 3)), integers(1, (size, size, 3, 4))
    y = Conv(4, size, stride).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_array_equal(y, convolve(x, kernel, stride))


@pytest.mark.parametrize("stride", [1, 2])
def test_groups(stride):
    x, kernel = integers(0, (2, 5, 6, 6)), integers(1, (3, 3, 2, 9))
    y = Conv(9, 3, stride, groups=3).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_array_equal(y, convolve(x, kernel, stride, groups=3))


def test_the_only_parameter_is_a_float32_kernel():
    conv = Conv(8, 3, 2, groups=2, dtype=jnp.bfloat16)
    init = jax.eval_shape(conv.init, jax.random.key(0), jnp.zeros((1, 6, 6, 4), jnp.bfloat16))
    assert init == {"params": {"kernel": jax.ShapeDtypeStruct((3, 3, 2, 8), jnp.float32)}}


def test_kernel_init():
    x = jnp.zeros((1, 4, 4, 16))

    def std(conv):
        return float(conv.init(jax.random.key(0), x)["params"]["kernel"].std())

    assert std(Conv(64, 3)) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert std(Conv(64, 3, kernel_init=small_normal(0.5))) == pytest.approx(0.5, rel=0.05)
    assert std(Conv(64, 3, kernel_init=zeros())) == 0


def test_bfloat16():
    x, kernel = integers(0, (2, 5, 6, 3)), integers(1, (3, 3, 3, 4))
    y = Conv(4, 3, dtype=jnp.bfloat16).apply({"params": {"kernel": kernel}}, x)
    assert y.dtype == jnp.bfloat16
    expected = convolve(x, kernel, 1).astype(jnp.bfloat16)  # one rounding, of the exact sum
    np.testing.assert_array_equal(y, expected)
    assert Conv(4, 3).apply({"params": {"kernel": kernel}}, x.astype(jnp.bfloat16)).dtype == "f4"


def test_operands_are_rounded_to_the_compute_dtype():
    """So it is a bfloat16 convolution, and not a float32 one with its result rounded."""
    x = np.float32([1, -1]).reshape(1, 1, 1, 2)
    kernel = np.float32([1 + 2**-9, 1]).reshape(1, 1, 2, 1)
    for dtype, expected in ((jnp.float32, 2**-9), (jnp.bfloat16, 0)):
        y = Conv(1, 1, dtype=dtype).apply({"params": {"kernel": kernel}}, x)
        assert float(y[0, 0, 0, 0]) == expected


def windows(x: np.ndarray, size: int, reach: int) -> np.ndarray:
    """[B, ceil(H / 2), ceil(W / 2), C, size, size], NaN outside of the map."""
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (reach, size), (reach, size), (0, 0)), constant_values=np.nan)
    view = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    return view[:, :height:2, :width:2]


@pytest.mark.parametrize("sides", [*SIDES, (112, 112)])
def test_max_pool(sides):
    x = integers(0, (2, *sides, 3)) - 100  # negative: a padding of zeros would win
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), np.nanmax(windows(x, 3, 1), (-1, -2)))


@pytest.mark.parametrize("sides", [(8, 6), (7, 6), (6, 7), (7, 9), (1, 1), (2, 1)])
def test_avg_pool_down_averages_what_is_there(sides):
    x = integers(0, (2, *sides, 3)) + 50
    y = np.asarray(avg_pool_down(jnp.asarray(x)))
    np.testing.assert_array_equal(y, np.nanmean(windows(x, 2, 0), (-1, -2)))


@pytest.mark.parametrize("pool", [max_pool, avg_pool_down])
def test_pools_keep_the_dtype(pool):
    assert pool(jnp.ones((1, 5, 5, 2), jnp.bfloat16)).dtype == jnp.bfloat16
