"""Stochastic depth and the parameter-free shortcut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.layers import DropPath, pad_shortcut


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
