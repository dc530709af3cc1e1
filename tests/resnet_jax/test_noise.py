"""Noise in training does not change the mean of a map over many samples."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model
from resnet_jax.layers import Dense, DropBlock, DropPath, FractionalMaxPool
from tests.networks import images, variables_at_random


def outputs(layer: nn.Module, x: jax.Array, draws: int, variables: dict | None = None):
    """Float64 [draws, ...]: of the layer in training, with a key for each draw."""

    def once(key: jax.Array) -> jax.Array:
        return layer.apply(variables or {}, x, train=True, rngs={"dropout": key})

    keys = jax.random.split(jax.random.key(0), draws)
    return np.asarray(jax.jit(jax.vmap(once))(keys), np.float64)


@pytest.mark.parametrize(
    ("size", "sides"), [(7, (7, 7)), (7, (1, 1)), (7, (3, 5)), (7, (14, 14)), (3, (8, 9))]
)
@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_drop_block_keeps_the_mean_of_the_batch(rate, size, sides):
    """Algorithm 1 divides by the share that is left of the whole mask: 1 at every draw.

    The default, 7 on a map of 7x7, drops whole examples: counted for each example, it was 1 - rate.
    """
    y = outputs(DropBlock(rate, size), jnp.ones((64, *sides, 2)), 50)
    np.testing.assert_allclose(y.mean((1, 2, 3, 4)), 1, rtol=1e-6)
    # Each pixel too, over the draws, but for what a centre near the border cannot reach.
    whole = y.reshape(50 * 64, *sides, 2)
    if size >= max(sides):
        deviation = math.sqrt(rate / (1 - rate) / len(whole))
        np.testing.assert_allclose(whole.mean(0), 1, atol=5 * deviation)


def test_drop_block_of_a_batch_that_is_dropped_as_a_whole():
    y = outputs(DropBlock(0.5, 7), jnp.ones((1, 7, 7, 2)), 64).mean((1, 2, 3, 4))
    assert set(y.tolist()) == {0.0, 1.0}  # and not 0 / 0


def test_drop_block_counts_over_all_devices(devices):
    x = jnp.ones((16, 7, 7, 2))
    layer, rngs = DropBlock(0.4, 7), {"dropout": jax.random.key(1)}
    step = jax.jit(lambda x: layer.apply({}, x, train=True, rngs=rngs))
    mesh = jax.sharding.Mesh(np.asarray(devices), ("data",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    one, eight = step(x), step(jax.device_put(x, place))
    np.testing.assert_array_equal(one, eight)
    assert np.mean(eight) == pytest.approx(1, rel=1e-5) and (np.asarray(eight) == 0).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_drop_path_keeps_the_mean(rate, dtype):
    """Also the scale: 1 - rate rounded to bfloat16 is up to 0.2 % wrong."""
    x = jnp.linspace(1, 2, 2**14, dtype=jnp.float32).reshape(1, -1).astype(dtype)
    for layer in (DropPath(rate), DropPath(jnp.float32(rate))):  # a loop has an array
        y = outputs(layer, x, 400)
        kept = y.any((1, 2))
        deviation = math.sqrt(rate * (1 - rate) / 400)
        assert abs(kept.mean() - (1 - rate)) < 5 * deviation
        # Rounding errors of many values cancel.
        scale = y[kept].mean() / np.asarray(x, np.float64).mean()
        assert scale == pytest.approx(1 / (1 - rate), rel=2e-4)


def test_drop_connect_keeps_the_mean_and_the_variance():
    """Of an output over draws: those of a mask for each example (Wan 2013, section 4.1)."""
    rng = np.random.default_rng(0)
    x, kernel = np.float32(rng.normal(1, 1, (2, 40))), np.float32(rng.normal(size=(40, 5)))
    variables = {"params": {"kernel": kernel, "bias": np.zeros(5, np.float32)}}
    y, p = outputs(Dense(5, 0.3), jnp.asarray(x), 4000, variables), 0.7
    variance = (1 - p) / p * np.square(x) @ np.square(kernel)
    assert (np.abs(y.mean(0) - x @ kernel) < 5 * np.sqrt(variance / 4000)).all()
    np.testing.assert_allclose(y.var(0), variance, rtol=5 * math.sqrt(2 / 4000))


def test_fractional_pooling_has_the_mean_of_evaluation():
    """Noise without a place: the largest of nine, wherever the windows are."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 16, 16, 8)), jnp.float32)
    train = outputs(FractionalMaxPool(), x, 8)
    test = np.asarray(FractionalMaxPool().apply({}, x, train=False), np.float64)
    nine = 1.48501  # the expected largest of nine normal deviates
    assert test.mean() == pytest.approx(nine, abs=0.02)
    assert train.mean() == pytest.approx(nine, abs=0.02)


def test_the_dropout_of_a_block_divides_in_float32():
    """By 0.7; Flax divides in the type of the map: by 0.7 rounded to bfloat16, 0.1 % off."""
    options = {"depths": (1,), "width": 8, "block_dropout": 0.3, "dtype": jnp.bfloat16}
    model = create_model("resnet8_cifar", 4, **options)
    _, found = model.apply(
        variables_at_random(model),
        images(32),
        train=True,
        rngs={"dropout": jax.random.key(0)},
        capture_intermediates=lambda module, _: module.name in ("norm1", "dropout"),
        mutable=["batch_stats", "intermediates"],
    )
    block = found["intermediates"]["backbone"]["stage1"]["block1"]
    before, after = (
        np.asarray(block[name]["__call__"][0], np.float64) for name in ("norm1", "dropout")
    )
    kept = after != 0
    assert kept.sum() > 5000
    scale = after[kept].mean() / before[kept].mean()
    assert scale == pytest.approx(1 / 0.7, rel=1e-4)
