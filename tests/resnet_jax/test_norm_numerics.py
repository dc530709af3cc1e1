"""Numerics of BatchNorm in hard cases, against float64; and one value per channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax import create_model
from resnet_jax.norm import BatchNorm


def fresh(channels: int) -> dict:
    zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    return {
        "params": {"scale": ones, "bias": zeros},
        "batch_stats": {"mean": zeros, "var": ones},
    }


def train(norm: BatchNorm, x: np.ndarray | jax.Array, variables: dict | None = None, **options):
    variables = variables or fresh(3)
    y, updates = norm.apply(
        variables, jnp.asarray(x), train=True, mutable=["batch_stats"], **options
    )
    return y, updates["batch_stats"]


def normalised(y: np.ndarray) -> np.ndarray:
    axes = tuple(range(y.ndim - 1))
    return (y - y.mean(axes)) / np.sqrt(y.var(axes) + 1e-5)


def relative(found: object, expected: np.ndarray) -> float:
    off = np.asarray(found, np.float64) - expected
    return float(np.sqrt(np.mean(off**2) / np.mean(expected**2)))


@pytest.mark.parametrize("varies", [True, False])
@pytest.mark.parametrize("ratio", [100, 1000])
def test_channels_that_share_most_of_their_signal(ratio, varies):
    """A part common to all channels, `ratio` times the noise that tells them apart; the kernel
    removes it. In float32 the inputs alone cost ratio * 2^-24; the Gram matrix ratio^2 * 2^-24.
    """
    rng = np.random.default_rng(0)
    common = rng.normal(size=(16, 8, 8, 1)) if varies else 1.0
    x = (rng.normal(size=(16, 8, 8, 16)) + ratio * common).astype(np.float32)
    kernel = rng.normal(size=(16, 64))
    kernel = (kernel - kernel.mean(0)).astype(np.float32)
    expected = normalised(x.astype(np.float64) @ kernel.astype(np.float64))
    y, stats = train(BatchNorm(momentum=0.0), x, fresh(64), kernel=jnp.asarray(kernel))
    assert relative(y, expected) < 1e-7 * ratio
    var = (x.astype(np.float64) @ kernel.astype(np.float64)).var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(stats["var"], var, rtol=4e-7 * ratio)


@pytest.mark.parametrize(("mean", "std"), [(100, 0.1), (-2000, 1), (3, 1), (1e4, 0.1)])
@pytest.mark.parametrize("group_size", [None, 8])
def test_the_variance_is_right_from_the_first_step_on(mean, std, group_size):
    """The running mean is still 0, far from the mean."""
    x = np.random.default_rng(0).normal(mean, std, (32, 7, 7, 3)).astype(np.float32)
    variables = fresh(3)
    norm = BatchNorm(momentum=0.9, group_size=group_size)
    parts = x.astype(np.float64).reshape(-1, group_size or 32, 7, 7, 3)
    expected = parts.var((1, 2, 3), ddof=1).mean(0)
    for _ in range(3):
        y, stats = train(norm, x, variables)
        before = np.asarray(variables["batch_stats"]["var"], np.float64)
        found = (np.asarray(stats["var"], np.float64) - 0.9 * before) / 0.1
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        spread = np.asarray(y, np.float64).reshape(parts.shape).var((1, 2, 3))
        wanted = parts.var((1, 2, 3))
        # The relative error of the mean is 2^-24; in standard deviations it is larger.
        known = abs(mean) / std * 2**-22
        np.testing.assert_allclose(spread, wanted / (wanted + 1e-5), rtol=1e-5 + known)
        variables = {**variables, "batch_stats": stats}


def test_the_first_example_may_be_an_outlier():
    """The outlier is part of the variance: the error is at most about B * 2^-24."""
    x = np.random.default_rng(0).normal(0, 1, (64, 5, 5, 3))
    x[0] += 1e5
    x = x.astype(np.float32)
    _, stats = train(BatchNorm(momentum=0.0), x)
    expected = x.astype(np.float64).var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(stats["var"], expected, rtol=64 * 2**-22)


def test_the_shift_has_no_gradient():
    """The gradient of a sum over the first example, against float64."""
    x = np.random.default_rng(0).normal(100, 1, (8, 4, 4, 3)).astype(np.float32)

    def total(x, norm):
        return jnp.square(train(norm, x)[0][0] + 1).sum()

    found = jax.grad(total)(jnp.asarray(x), BatchNorm())
    with jax.enable_x64(True):
        exact = jax.grad(total)(jnp.asarray(x, jnp.float64), BatchNorm(dtype=jnp.float64))
    assert relative(found, np.asarray(exact)) < 2e-5


def test_all_devices_use_the_same_shift(devices):
    """Their parts of the batch have different means."""
    rng = np.random.default_rng(0)
    means = 100 + 0.1 * np.arange(32)[:, None, None, None]
    x = (rng.normal(0, 0.1, (32, 4, 4, 3)) + means).astype(np.float32)
    place = NamedSharding(Mesh(np.asarray(devices), ("data",)), PartitionSpec("data"))
    step = jax.jit(lambda x: train(BatchNorm(momentum=0.0), x))
    _, stats = step(jax.device_put(x, place))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(stats["var"], wide.var((0, 1, 2), ddof=1), rtol=1e-5)
    np.testing.assert_allclose(stats["mean"], wide.mean((0, 1, 2)), rtol=1e-6)


def test_statistics_of_a_device_need_no_other(devices):
    x = jax.ShapeDtypeStruct(
        (32, 4, 4, 3),
        jnp.float32,
        sharding=NamedSharding(Mesh(np.asarray(devices), ("data",)), PartitionSpec("data")),
    )
    step = jax.jit(lambda x: train(BatchNorm(group_size=4), x)[0])
    text = step.lower(x).compile().as_text()
    assert not any(name in text for name in ("all-reduce", "all-gather", "collective-permute"))


@pytest.mark.parametrize("kernel", [None, np.ones((3, 6), np.float32)], ids=["norm", "conv"])
@pytest.mark.parametrize(
    ("shape", "group_size"), [((1, 1, 1, 3), None), ((4, 1, 1, 3), 1)], ids=["batch", "groups"]
)
def test_one_value_per_channel_is_refused_only_in_training(shape, group_size, kernel):
    x, variables = jnp.ones(shape), fresh(3 if kernel is None else 6)
    norm = BatchNorm(group_size=group_size)
    with pytest.raises(ValueError, match=r"BatchNorm: one value per channel \(groups of 1 example"):
        train(norm, x, variables, kernel=kernel)
    norm.init(jax.random.key(0), x, train=True, kernel=kernel)
    norm.apply(variables, x, train=False, kernel=kernel)
    train(BatchNorm(group_size=group_size, frozen=True), x, variables, kernel=kernel)
    train(norm, jnp.ones((shape[0], 2, *shape[2:])), variables, kernel=kernel)


def test_the_layer_is_named():
    model = create_model("resnet8_cifar", 4, depths=(1, 1), width=8)
    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 2, 2, 3)), train=False), jax.random.key(0)
    )
    with pytest.raises(ValueError, match=r"^backbone/stage2/block1/norm1: one value per channel"):
        jax.eval_shape(
            lambda v: model.apply(v, jnp.zeros((1, 2, 2, 3)), train=True, mutable=["batch_stats"]),
            variables,
        )
