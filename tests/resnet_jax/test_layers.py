"""Attention, noise, activations and the parameter-free shortcut, against plain NumPy."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.layers import (
    ACTIVATIONS,
    Dense,
    DropBlock,
    DropPath,
    EfficientChannelAttention,
    FractionalMaxPool,
    SqueezeExcite,
    pad_shortcut,
)


def drop(rate: float, x: jax.Array, seed: int = 0) -> np.ndarray:
    layer = DropPath(rate)
    return np.asarray(layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)}))


@pytest.mark.parametrize("rate", [0.1, 0.75])
def test_drop_path_zeroes_whole_examples_and_scales_the_rest(rate):
    n = 4000
    x = np.random.default_rng(0).normal(5, 1, (n, 2, 1, 3)).astype(np.float32)
    y = drop(rate, x)
    kept = y.any((1, 2, 3))
    np.testing.assert_allclose(y[kept], x[kept] / (1 - rate), rtol=1e-6)
    assert not y[~kept].any()
    # Four standard deviations of a binomial share; the expectation is the input's.
    sigma = np.sqrt(rate * (1 - rate) / n)
    assert abs((~kept).mean() - rate) < 4 * sigma
    assert y.mean() == pytest.approx(x.mean(), rel=4 * sigma / (1 - rate))
    # Neighbours are dropped independently of each other.
    assert abs((~kept[1:] & ~kept[:-1]).mean() - rate**2) < 4 * sigma


def test_drop_path_draws_from_the_dropout_stream():
    x = np.ones((64, 1), np.float32)
    np.testing.assert_array_equal(drop(0.5, x, seed=1), drop(0.5, x, seed=1))
    assert (drop(0.5, x, seed=1) != drop(0.5, x, seed=2)).any()


@pytest.mark.parametrize(("rate", "train"), [(0.5, False), (0.0, True), (0.0, False)])
def test_drop_path_is_the_identity_and_needs_no_key(rate, train):
    x = np.random.default_rng(0).normal(size=(8, 2, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(DropPath(rate).apply({}, x, train=train), x)


def test_drop_path_keeps_the_dtype():
    y = drop(0.5, jnp.ones((64, 1, 1, 2), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16 and set(np.unique(y).tolist()) == {0, 2}


def test_drop_path_passes_no_gradient_to_a_dropped_branch():
    x = np.ones((64, 3), np.float32)
    layer, rngs = DropPath(0.5), {"dropout": jax.random.key(0)}
    slope = jax.grad(lambda x: layer.apply({}, x, train=True, rngs=rngs).sum())(x)
    np.testing.assert_array_equal(slope, drop(0.5, x))


@pytest.mark.parametrize(
    ("channels", "features", "first"), [(2, 6, 2), (2, 7, 2), (3, 4, 0), (3, 6, 1), (4, 4, 0)]
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(4, 5), (5, 4)])
def test_pad_shortcut(channels, features, first, stride, sides):
    """The input's channels come `first`; the odd zero of an uneven number is behind them."""
    x = np.random.default_rng(0).normal(size=(2, *sides, channels)).astype(np.float32)
    y = np.array(pad_shortcut(jnp.asarray(x), features, stride))
    assert y.shape == (2, -(-sides[0] // stride), -(-sides[1] // stride), features)
    for i, j in np.ndindex(*y.shape[1:3]):
        pixel = x[:, stride * i, stride * j]
        np.testing.assert_array_equal(y[:, i, j, first : first + channels], pixel)
    y[..., first : first + channels] = 0
    assert not y.any()


POINTS = np.float32([-5, -3, -1.5, -0.5, 0, 0.5, 1, 2.5, 3, 6])
FORMULAS = {
    "relu": lambda x: max(x, 0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    # Klambauer 2017, equation 14
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "hard_swish": lambda x: x * min(max(x + 3, 0), 6) / 6,  # Howard 2019, 5.2
}


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations(name):
    y = ACTIVATIONS[name](jnp.asarray(POINTS))
    expected = [FORMULAS[name](float(x)) for x in POINTS]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert ACTIVATIONS[name](jnp.asarray(POINTS, jnp.bfloat16)).dtype == jnp.bfloat16


def parameters(layer: nn.Module, x: jax.Array, seed: int = 3) -> dict:
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_squeeze_excite():
    """Hu 2018, equations 2 to 4."""
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 16)).astype(np.float32)
    layer = SqueezeExcite(ratio=0.5)
    variables = parameters(layer, x)
    first, second = (variables["params"][name] for name in ("fc1", "fc2"))
    squeezed = np.maximum(x.mean((1, 2)) @ first["kernel"] + first["bias"], 0)
    gate = sigmoid(squeezed @ second["kernel"] + second["bias"])
    assert squeezed.shape == (3, 8) and gate.std() > 0.1
    expected = x * gate[:, None, None]
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-4, atol=1e-5)
    half = layer.apply(variables, jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(
    ("channels", "ratio", "squeezed"),
    [
        *((16, 1 / 16, 8), (64, 1 / 16, 8), (128, 1 / 16, 8), (2048, 1 / 16, 128)),
        # 12, 20 and 18 go to the nearest multiple of 8, a half upwards
        *((192, 1 / 16, 16), (320, 1 / 16, 24), (72, 1 / 4, 16)),
        *((64, 1 / 4, 16), (256, 1 / 4, 64), (8, 1, 8)),
    ],
)
def test_squeezed_width(channels, ratio, squeezed):
    x = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.bfloat16)
    params = jax.eval_shape(SqueezeExcite(ratio).init, jax.random.key(0), x)["params"]
    assert jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), params) == {
        "fc1": {"kernel": ((channels, squeezed), "float32"), "bias": ((squeezed,), "float32")},
        "fc2": {"kernel": ((squeezed, channels), "float32"), "bias": ((channels,), "float32")},
    }


@pytest.mark.parametrize(
    ("channels", "size"),
    [(64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7), (16, 3), (1, 3)],
)
def test_kernel_of_efficient_channel_attention(channels, size):
    """Wang 2020, equation 12 with gamma 2 and b 1: |log2(C) / 2 + 1 / 2|, made odd as in timm."""
    x = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.bfloat16)
    params = jax.eval_shape(EfficientChannelAttention().init, jax.random.key(0), x)["params"]
    assert params == {"kernel": jax.ShapeDtypeStruct((size, 1, 1), jnp.float32)}


def test_efficient_channel_attention():
    x = np.random.default_rng(0).normal(1, 1, size=(3, 4, 5, 130)).astype(np.float32)
    layer = EfficientChannelAttention()
    variables = parameters(layer, x)
    kernel, means = variables["params"]["kernel"].ravel(), x.mean((1, 2))
    expected = np.empty_like(x)
    for c in range(130):
        neighbours = [(c + i - 2, kernel[i]) for i in range(5)]  # beyond the ends there is nothing
        total = sum(means[:, n] * weight for n, weight in neighbours if 0 <= n < 130)
        expected[..., c] = x[..., c] * sigmoid(total)[:, None, None]
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-4, atol=1e-5)
    assert layer.apply(variables, jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def drop_block(rate: float, size: int, x: jax.typing.ArrayLike, seed: int = 0) -> np.ndarray:
    rngs = {"dropout": jax.random.key(seed)}
    return np.asarray(DropBlock(rate, size).apply({}, jnp.asarray(x), train=True, rngs=rngs))


def squares(dropped: np.ndarray, size: int) -> np.ndarray:
    """The pixels of [B, H, W] that lie in a whole dropped square, by looking at each square."""
    found = np.zeros_like(dropped)
    for i in range(dropped.shape[1] - size + 1):
        for j in range(dropped.shape[2] - size + 1):
            whole = dropped[:, i : i + size, j : j + size].all((1, 2))
            found[whole, i : i + size, j : j + size] = True
    return found


@pytest.mark.parametrize(("rate", "size", "sides"), [(0.1, 3, (8, 9)), (0.4, 2, (6, 5))])
def test_drop_block_drops_whole_squares_in_all_channels(rate, size, sides):
    n = 2000
    x = np.random.default_rng(0).uniform(1, 2, (n, *sides, 3)).astype(np.float32)
    y = drop_block(rate, size, x)
    dropped = ~y.any(-1)
    assert ((y == 0) == dropped[..., None]).all()
    np.testing.assert_array_equal(squares(dropped, size), dropped)
    # Algorithm 1: the chance of each pixel to escape all centres that would reach it.
    height, width = (side - size + 1 for side in sides)
    gamma = rate * math.prod(sides) / size**2 / (height * width)
    centres = np.zeros(sides)
    for i, j in np.ndindex(height, width):
        centres[i : i + size, j : j + size] += 1
    chance = 1 - (1 - gamma) ** centres
    assert 0.8 * rate < chance.mean() < rate
    # Five deviations of a share; neighbours are not independent, of whole maps there are n.
    np.testing.assert_allclose(dropped.mean(0), chance, atol=5 * 0.5 / math.sqrt(n))
    deviation = dropped.mean((1, 2)).std() / math.sqrt(n)
    assert abs(dropped.mean() - chance.mean()) < 5 * deviation
    # What is left of the batch is scaled up by one factor, as in algorithm 1.
    expected = np.where(dropped[..., None], 0, x * (dropped.size / (~dropped).sum()))
    np.testing.assert_allclose(y, expected, rtol=1e-5)


@pytest.mark.parametrize("sides", [(3, 5), (1, 1)])
def test_drop_block_is_cut_to_the_map(sides):
    """One square then covers it: an example is dropped as a whole, and the others scaled up."""
    x = np.random.default_rng(0).uniform(1, 2, (2000, *sides, 2)).astype(np.float32)
    y = drop_block(0.3, 7, x)
    dropped = ~y.any((1, 2, 3))
    scaled = x * (2000 / (~dropped).sum())
    np.testing.assert_allclose(y, np.where(dropped[:, None, None, None], 0, scaled), rtol=1e-6)
    assert abs(dropped.mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 2000)


@pytest.mark.parametrize(("rate", "train"), [(0.5, False), (0.0, True)])
def test_drop_block_is_the_identity_and_needs_no_key(rate, train):
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(DropBlock(rate, 3).apply({}, x, train=train), x)


def test_drop_block_draws_from_the_dropout_stream_and_keeps_the_dtype():
    x = jnp.ones((16, 6, 6, 2), jnp.bfloat16)
    y = drop_block(0.3, 2, x, seed=1)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, drop_block(0.3, 2, x, seed=1))
    assert (y != drop_block(0.3, 2, x, seed=2)).any()


def connect(rate: float, x: np.ndarray, seed: int, kernel: np.ndarray) -> np.ndarray:
    variables = {"params": {"kernel": kernel, "bias": np.zeros(kernel.shape[1], np.float32)}}
    rngs = {"dropout": jax.random.key(seed)}
    return np.asarray(Dense(kernel.shape[1], rate).apply(variables, x, train=True, rngs=rngs))


@pytest.mark.parametrize("rate", [0.2, 0.75])
def test_drop_connect_leaves_out_single_weights_and_scales_the_rest(rate):
    kernel = np.random.default_rng(0).uniform(1, 2, (60, 50)).astype(np.float32)
    eye = np.eye(60, dtype=np.float32)
    used = connect(rate, eye, 0, kernel)  # x @ kernel with x = 1
    kept = used != 0
    np.testing.assert_allclose(used[kept], (kernel / (1 - rate))[kept], rtol=1e-6)
    sigma = math.sqrt(rate * (1 - rate) / kernel.size)
    assert abs((~kept).mean() - rate) < 4 * sigma
    # One weight goes without its row or column, and another time it is another.
    assert (~kept).any(0).all() and kept.any(0).all() and (~kept).any(1).all() and kept.any(1).all()
    others = np.mean([connect(rate, eye, seed, kernel) for seed in range(50)], 0)
    assert (others / kernel).mean() == pytest.approx(1, abs=5 * sigma / (1 - rate) / math.sqrt(50))
    assert np.abs(others / kernel - 1).max() < 5.5 * math.sqrt(rate / (1 - rate) / 50)
    # A batch shares one mask.
    row = np.tile(np.float32(np.arange(60)), (4, 1))
    np.testing.assert_allclose(connect(rate, row, 0, kernel), row @ used, rtol=1e-5)


def test_dense_without_noise():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(4, 6)), rng.normal(size=(6, 3))
    variables = {"params": {"kernel": np.float32(kernel), "bias": np.float32([1, 2, 3])}}
    expected = x @ kernel + [1, 2, 3]
    for layer, train in ((Dense(3, 0.9), False), (Dense(3), True), (Dense(3), False)):
        y = layer.apply(variables, np.float32(x), train=train)  # and needs no key
        np.testing.assert_allclose(y, expected, rtol=1e-5)


def positions(side: int, sample: float) -> list[int]:
    """torch's generate_intervals (FractionalMaxPooling.h), in its float32."""
    out, alpha = int(side / math.sqrt(2)), np.float32(side - 3)
    alpha, sample = alpha / np.float32(out - 1), np.float32(sample)
    starts = [int((i + sample) * alpha) - int(sample * alpha) for i in range(out - 1)]
    return [*starts, side - 3]


@pytest.mark.parametrize("sides", [(5, 12), (16, 9), (23, 32)])
def test_fractional_max_pool_in_evaluation(sides):
    x = np.random.default_rng(0).normal(size=(2, *sides, 3)).astype(np.float32)
    rows, columns = (positions(side, 0.5) for side in sides)
    y = np.asarray(FractionalMaxPool().apply({}, x, train=False))
    assert y.shape == (2, len(rows), len(columns), 3)
    assert (len(rows), len(columns)) == tuple(int(side / 2**0.5) for side in sides)
    for (i, row), (j, column) in ((a, b) for a in enumerate(rows) for b in enumerate(columns)):
        window = x[:, row : row + 3, column : column + 3]
        np.testing.assert_array_equal(y[:, i, j], window.max((1, 2)))
    half = FractionalMaxPool().apply({}, jnp.asarray(x, jnp.bfloat16), train=False)
    assert half.dtype == jnp.bfloat16


def test_fractional_max_pool_draws_positions_for_each_example():
    sides = (16, 23)
    ramps = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), -1).astype(np.float32)
    x = np.tile(ramps, (64, 1, 1, 1))

    def starts(seed):
        rngs = {"dropout": jax.random.key(seed)}
        y = np.asarray(FractionalMaxPool().apply({}, x, train=True, rngs=rngs)).astype(int) - 2
        assert (y[:, :, :1, 0] == y[..., 0]).all() and (y[:, :1, :, 1] == y[..., 1]).all()
        return y[:, :, 0, 0], y[:, 0, :, 1]  # of the rows and columns of each example

    for found, side in zip(starts(0), sides, strict=True):
        allowed = {tuple(positions(side, sample)) for sample in np.linspace(0, 1, 4000, False)}
        seen = {tuple(row.tolist()) for row in found}
        assert len(seen) > 1 and seen <= allowed
        assert (found[:, 0] == 0).all() and (found[:, -1] == side - 3).all()
        assert set(np.diff(found).ravel().tolist()) == {1, 2}
    rows, columns = starts(0)
    assert len({(*r, *c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)}) > 5
    assert (starts(1)[0] != rows).any()
    np.testing.assert_array_equal(starts(0)[0], rows)


def test_a_map_too_small_for_fractional_max_pool():
    with pytest.raises(ValueError, match="4x4"):
        FractionalMaxPool().apply({}, np.zeros((1, 8, 3, 1), np.float32), train=False)
