"""Convolution and pools against loops over pixels; integers make the comparison exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.conv import Conv, anti_alias, avg_pool_down, avg_pool_same, max_pool
from resnet_jax.init import small_normal, zeros

SIDES = [(8, 9), (9, 8), (1, 2)]  # even and odd, both ways round; smaller than the kernel


def integers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


def convolve(
    x: np.ndarray, kernel: np.ndarray, stride: int, groups: int = 1, dilation: int = 1
) -> np.ndarray:
    """Output pixel (i, j) is centred on input pixel (stride * i, stride * j)."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    (batch, height, width, _), (size, _, inputs, features) = x.shape, kernel.shape
    reach, outputs = size // 2, features // groups
    out = np.zeros((batch, -(-height // stride), -(-width // stride), features))
    for i, j, u, v in np.ndindex(*out.shape[1:3], size, size):
        row = stride * i + dilation * (u - reach)
        column = stride * j + dilation * (v - reach)
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


@pytest.mark.parametrize("sides", [(8, 9), (3, 4)])  # and smaller than the dilated kernel
@pytest.mark.parametrize(("stride", "groups", "dilation"), [(1, 1, 2), (1, 3, 4), (2, 1, 2)])
def test_dilation(stride, groups, dilation, sides):
    x, kernel = integers(0, (2, *sides, 6)), integers(1, (3, 3, 6 // groups, 9))
    conv = Conv(9, 3, stride, groups, dilation=dilation)
    y = conv.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_array_equal(y, convolve(x, kernel, stride, groups, dilation))


@pytest.mark.parametrize("groups", [1, 2])
def test_weight_standardization(groups):
    """Qiao 2019, equation 10: over the inputs of each output, in its group."""
    rng = np.random.default_rng(0)
    x = integers(0, (2, 5, 6, 4))
    kernel = rng.normal(3, 0.1, (3, 3, 4 // groups, 6)).astype(np.float32)
    wide = kernel.astype(np.float64)
    standard = np.empty_like(wide)
    for f in range(6):
        standard[..., f] = (wide[..., f] - wide[..., f].mean()) / np.sqrt(wide[..., f].var() + 1e-8)
    assert np.abs(standard.mean((0, 1, 2))).max() < 1e-6
    np.testing.assert_allclose(standard.var((0, 1, 2)), 1, rtol=1e-5)
    conv = Conv(6, 3, groups=groups, standardize=True)
    y = conv.apply({"params": {"kernel": kernel}}, x)
    expected = convolve(x, standard, 1, groups)
    np.testing.assert_allclose(y, expected, atol=1e-4 * np.abs(expected).max())
    # Neither the mean nor the size of a kernel matters.
    moved = conv.apply({"params": {"kernel": 4 * kernel - 1}}, x)
    np.testing.assert_allclose(moved, y, atol=1e-3 * np.abs(expected).max())


def test_weight_standardization_of_a_constant_kernel_is_zero():
    conv, kernel = Conv(2, 3, standardize=True), np.zeros((3, 3, 1, 2), np.float32)

    def total(kernel):
        return (conv.apply({"params": {"kernel": kernel}}, integers(0, (1, 4, 4, 1))) ** 2).sum()

    assert total(kernel) == 0
    assert np.isfinite(jax.grad(total)(kernel)).all()


def test_weights_are_standardized_in_float32():
    x, kernel = integers(0, (1, 4, 4, 2)), 100 + integers(1, (1, 1, 2, 2)) / 64
    half, full = (
        Conv(2, 1, standardize=True, dtype=dtype).apply({"params": {"kernel": kernel}}, x)
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    assert half.dtype == jnp.bfloat16
    assert np.abs(full).max() > 5  # though bfloat16 does not tell 100 + 1/64 from 100
    np.testing.assert_allclose(half.astype(np.float32), full, rtol=2**-6, atol=0.05)


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
    """A bfloat16 convolution, not a float32 one with a rounded result."""
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
def test_avg_pool_down_does_not_count_padding(sides):
    x = integers(0, (2, *sides, 3)) + 50
    y = np.asarray(avg_pool_down(jnp.asarray(x)))
    np.testing.assert_array_equal(y, np.nanmean(windows(x, 2, 0), (-1, -2)))


@pytest.mark.parametrize("sides", [(7, 6), (1, 2)])
def test_max_pool_with_stride_1(sides):
    x = integers(0, (2, *sides, 3)) - 100
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), 1), view.max((-1, -2)))


@pytest.mark.parametrize("stride", [1, 2])
def test_zero_padding_is_larger_than_negative_values(stride):
    x = integers(0, (2, 6, 7, 3)) - 100
    y = np.asarray(max_pool(jnp.asarray(x), stride, zero_pad=True))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2)).max((-1, -2))
    np.testing.assert_array_equal(y, view[:, ::stride, ::stride])
    assert not y[:, 0].any() and not y[:, :, 0].any() and (y[:, 1:-1, 1:-1] < 0).all()
    assert y.shape == max_pool(jnp.asarray(x), stride).shape


@pytest.mark.parametrize("sides", [(5, 6), (1, 1), (1, 3)])
def test_avg_pool_same_counts_zeros_at_the_far_side(sides):
    x = integers(0, (2, *sides, 3)) + 50
    y = np.asarray(avg_pool_same(jnp.asarray(x)))
    assert y.shape == x.shape
    for i, j in np.ndindex(*sides):
        np.testing.assert_array_equal(y[:, i, j], x[:, i : i + 2, j : j + 2].sum((1, 2)) / 4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(6, 7), (2, 3)])
def test_blur_is_a_binomial_filter_over_reflected_edges(sides, stride):
    """Zhang 2019, section 4.1: Triangle-3, the outer product of [1, 2, 1] / 4."""
    x = integers(0, (2, *sides, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    weights = np.float64([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    y = np.asarray(anti_alias(jnp.asarray(x), "blur", stride))
    assert y.shape == (2, -(-sides[0] // stride), -(-sides[1] // stride), 3)
    for i, j in np.ndindex(*y.shape[1:3]):
        window = padded[:, stride * i : stride * i + 3, stride * j : stride * j + 3]
        np.testing.assert_array_equal(y[:, i, j], np.einsum("buvc,uv->bc", window, weights))


@pytest.mark.parametrize("sides", [(6, 8), (7, 5)])
def test_an_averaged_stride_drops_an_odd_last_pixel(sides):
    x = integers(0, (2, *sides, 3))
    y = np.asarray(anti_alias(jnp.asarray(x), "avg", 2))
    assert y.shape == (2, sides[0] // 2, sides[1] // 2, 3)
    for i, j in np.ndindex(*y.shape[1:3]):
        pixels = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(y[:, i, j], pixels.mean((1, 2)))
    np.testing.assert_array_equal(anti_alias(jnp.asarray(x), "avg", 1), x)


POOLS = {
    "max": max_pool,
    "zero_max": lambda x: max_pool(x, zero_pad=True),
    "avg_down": avg_pool_down,
    "avg_same": avg_pool_same,
    "avg": lambda x: anti_alias(x, "avg", 2),
    "blur": lambda x: anti_alias(x, "blur", 2),
}


@pytest.mark.parametrize("pool", list(POOLS))
def test_pools_keep_the_dtype(pool):
    assert POOLS[pool](jnp.ones((1, 5, 5, 2), jnp.bfloat16)).dtype == jnp.bfloat16
