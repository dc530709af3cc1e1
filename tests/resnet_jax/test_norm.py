"""BatchNorm against closed forms in float64 NumPy."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax.norm import BatchNorm

SCALE = np.float32([0.5, 2.0, -1.5])
BIAS = np.float32([0.1, -0.2, 3.0])
MEAN = np.float32([1.0, -2.0, 0.3])
VAR = np.float32([0.25, 4.0, 1.7])
VARIABLES = {
    "params": {"scale": SCALE, "bias": BIAS},
    "batch_stats": {"mean": MEAN, "var": VAR},
}


def maps(seed: int, shape: Sequence[int] = (4, 2, 1, 3), mean: float = 3, std: float = 2):
    """Few values per channel by default, so that n and n - 1 differ much."""
    return np.random.default_rng(seed).normal(mean, std, shape).astype(np.float32)


def near(mean: float) -> dict:
    """Variables with a running mean near the mean of the maps."""
    stats = {"mean": np.float32([mean + 2, mean - 3, mean + 1]), "var": VAR}
    return {**VARIABLES, "batch_stats": stats}


def train(norm: BatchNorm, x: jax.typing.ArrayLike, variables: dict = VARIABLES):
    x = jnp.asarray(x)
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    return y, updates["batch_stats"]


def moments(x: np.ndarray, ddof: int = 0) -> tuple[np.ndarray, np.ndarray]:
    wide = np.asarray(x, np.float64)
    axes = tuple(range(wide.ndim - 1))
    return wide.mean(axes), wide.var(axes, ddof=ddof)


def normalised(x: np.ndarray, mean: np.ndarray, var: np.ndarray, epsilon: float = 1e-5):
    return (np.asarray(x, np.float64) - mean) / np.sqrt(var + epsilon) * SCALE + BIAS


def assert_close(actual: object, expected: object, tolerance: float = 2e-6):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def assert_same_bits(actual: object, expected: object):
    jax.tree.map(np.testing.assert_array_equal, dict(actual), dict(expected))


def test_variables():
    x = jnp.asarray(maps(0))
    for mode in (True, False):
        variables = BatchNorm(dtype=jnp.bfloat16).init(jax.random.key(0), x, train=mode)
        assert_same_bits(variables["params"], {"scale": np.ones(3), "bias": np.zeros(3)})
        assert_same_bits(variables["batch_stats"], {"mean": np.zeros(3), "var": np.ones(3)})
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    zero = BatchNorm(scale_init=jax.nn.initializers.zeros).init(jax.random.key(0), x, train=True)
    assert_same_bits(zero["params"], {"scale": np.zeros(3), "bias": np.zeros(3)})


@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0])
def test_running_averages_after_k_steps(momentum):
    steps, variables = 4, VARIABLES
    norm = BatchNorm(momentum=momentum)
    for step in range(steps):
        _, stats = train(norm, maps(step), variables)
        variables = {**variables, "batch_stats": stats}
    weights = [(1 - momentum) * momentum ** (steps - 1 - step) for step in range(steps)]
    batches = [moments(maps(step), ddof=1) for step in range(steps)]
    for index, (name, start) in enumerate((("mean", MEAN), ("var", VAR))):
        expected = momentum**steps * start.astype(np.float64)
        expected += sum(w * batch[index] for w, batch in zip(weights, batches, strict=True))
        assert_close(stats[name], expected)
        assert stats[name].dtype == jnp.float32


@pytest.mark.parametrize("shape", [(8, 3), (4, 2, 1, 3), (2, 3, 2, 2, 3)])
@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_training_normalises_by_the_biased_variance_of_the_batch(shape, epsilon):
    x = maps(0, shape)
    y, _ = train(BatchNorm(epsilon=epsilon), x)
    assert_close(y, normalised(x, *moments(x), epsilon), 1e-5)


@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_evaluation_uses_the_running_averages_and_does_not_change_them(epsilon):
    x = maps(0)
    norm = BatchNorm(epsilon=epsilon)
    y = norm.apply(VARIABLES, x, train=False)  # nothing is mutable here, and nothing is written
    assert_close(y, normalised(x, MEAN, VAR, epsilon), 1e-5)
    again, updates = norm.apply(VARIABLES, x, train=False, mutable=["batch_stats"])
    np.testing.assert_array_equal(again, y)
    assert_same_bits(updates["batch_stats"], VARIABLES["batch_stats"])


def test_a_numpy_array_gives_the_same_as_a_jax_array():
    x = maps(0)
    y, updates = BatchNorm().apply(VARIABLES, x, train=True, mutable=["batch_stats"])
    expected, stats = train(BatchNorm(), x)
    assert_close(y, expected)
    jax.tree.map(assert_close, updates["batch_stats"], stats)


@pytest.mark.parametrize("group_size", [None, 3])  # 3 does not divide 4: it plays no part here
def test_a_frozen_layer_behaves_as_in_evaluation(group_size):
    x = maps(0)
    norm = BatchNorm(frozen=True, group_size=group_size)
    y, stats = train(norm, x)
    np.testing.assert_array_equal(y, BatchNorm().apply(VARIABLES, x, train=False))
    assert_same_bits(stats, VARIABLES["batch_stats"])
    np.testing.assert_array_equal(y, norm.apply(VARIABLES, x, train=True))  # writes nothing


def gradients(norm: BatchNorm, x: np.ndarray, up: np.ndarray):
    """Gradients of sum(up * y) with respect to (scale and bias, x)."""

    def loss(params, x):
        y, _ = norm.apply({**VARIABLES, "params": params}, x, train=True, mutable=["batch_stats"])
        return (y.astype(jnp.float32) * up).sum()

    return jax.grad(loss, (0, 1))(VARIABLES["params"], x)


def backward(x: np.ndarray, up: np.ndarray, epsilon: float):
    """Ioffe & Szegedy 2015, section 3: (d scale, d bias, d x) in float64."""
    mean, var = moments(x)
    hat = (x.astype(np.float64) - mean) / np.sqrt(var + epsilon)
    axes = tuple(range(x.ndim - 1))
    inner = up - up.mean(axes) - hat * (up * hat).mean(axes)
    return (up * hat).sum(axes), up.sum(axes), SCALE / np.sqrt(var + epsilon) * inner


def test_gradients():
    x, up = maps(0), maps(1, mean=0).astype(np.float64)
    params, dx = gradients(BatchNorm(epsilon=0.01), x, up)
    for actual, expected in zip(
        (params["scale"], params["bias"], dx), backward(x, up, 0.01), strict=True
    ):
        assert_close(actual, expected, 2e-5)


def test_gradients_in_groups():
    x, up = maps(0, (8, 3)), maps(1, (8, 3)).astype(np.float64)
    params, dx = gradients(BatchNorm(epsilon=0.01, group_size=4), x, up)
    parts = [backward(x[half], up[half], 0.01) for half in (slice(0, 4), slice(4, 8))]
    assert_close(params["scale"], parts[0][0] + parts[1][0], 2e-5)
    assert_close(params["bias"], parts[0][1] + parts[1][1], 2e-5)
    assert_close(dx, np.concatenate([parts[0][2], parts[1][2]]), 2e-5)


def test_gradients_of_a_frozen_layer():
    """Scale and bias have gradients; the statistics are constants."""
    x, up = maps(0), maps(1)
    params, dx = gradients(BatchNorm(frozen=True), x, up)
    hat = (x.astype(np.float64) - MEAN) / np.sqrt(VAR.astype(np.float64) + 1e-5)
    assert_close(params["scale"], (up * hat).sum((0, 1, 2)), 1e-5)
    assert_close(params["bias"], up.astype(np.float64).sum((0, 1, 2)), 1e-5)
    assert_close(dx, up * SCALE / np.sqrt(VAR.astype(np.float64) + 1e-5), 1e-5)


def test_running_averages_are_not_differentiated():
    def total(x):
        _, stats = train(BatchNorm(), x)
        return stats["mean"].sum() + stats["var"].sum()

    np.testing.assert_array_equal(jax.grad(total)(maps(0)), np.zeros((4, 2, 1, 3)))


def test_groups_of_a_quarter_equal_four_separate_batches():
    x = np.concatenate([maps(seed, (2, 2, 2, 3), mean=seed, std=1 + seed) for seed in range(4)])
    y, stats = train(BatchNorm(group_size=2), x)
    alone = [train(BatchNorm(), part) for part in np.split(x, 4)]
    assert_close(y, np.concatenate([part for part, _ in alone]))
    for name in ("mean", "var"):
        assert_close(stats[name], np.mean([part[name] for _, part in alone], axis=0))


def test_one_group_is_the_whole_batch():
    x = maps(0)
    one, stats = train(BatchNorm(group_size=4), x)
    none, expected = train(BatchNorm(), x)
    np.testing.assert_array_equal(one, none)
    assert_same_bits(stats, expected)


def test_a_group_size_does_not_matter_in_evaluation():
    x = maps(0)
    y = BatchNorm(group_size=3).apply(VARIABLES, x, train=False)
    np.testing.assert_array_equal(y, BatchNorm().apply(VARIABLES, x, train=False))


@pytest.mark.parametrize("group_size", [3, 8])
def test_a_group_size_that_does_not_divide_the_batch(group_size):
    message = f"group_size {group_size}: does not divide the batch of 4 examples"
    with pytest.raises(ValueError, match=message):
        train(BatchNorm(group_size=group_size), maps(0))


@pytest.mark.parametrize("group_size", [0, -2])
def test_a_group_size_below_one(group_size):
    with pytest.raises(ValueError, match=f"group_size {group_size}"):
        train(BatchNorm(group_size=group_size), maps(0))


def test_statistics_of_a_bfloat16_map_with_a_large_mean():
    x = maps(0, (8, 16, 16, 3), mean=100, std=1).astype(jnp.bfloat16)
    y, stats = train(BatchNorm(momentum=0.0, dtype=jnp.bfloat16), x, near(100))
    mean, unbiased = moments(x, ddof=1)
    assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(stats["var"], unbiased, rtol=1e-5)
    assert y.dtype == jnp.bfloat16
    # One rounding to eight bits, of a result that was computed in float32.
    expected = normalised(x, *moments(x))
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-4)


def test_variance_of_a_float32_map_with_a_very_large_mean():
    """E[x^2] - E[x]^2 would have an error of several per cent here."""
    x = maps(0, (8, 16, 16, 3), mean=2000, std=1)
    y, stats = train(BatchNorm(momentum=0.0), x, near(2000))
    np.testing.assert_allclose(stats["var"], moments(x, ddof=1)[1], rtol=1e-5)
    np.testing.assert_allclose(y, normalised(x, *moments(x)), atol=2e-3)


@pytest.mark.parametrize("gap", [3, 30, 300])
def test_in_bfloat16_a_mean_far_from_the_running_one_costs_digits_until_that_is_near(gap):
    """The variance is known to 2^-24 of the square of their distance in deviations; then to all.

    In float32 it costs none: tests/resnet_jax/test_norm_numerics.py.
    """
    x = maps(0, (8, 16, 16, 3), mean=gap, std=1).astype(jnp.bfloat16)
    variables = {**VARIABLES, "batch_stats": {"mean": np.zeros(3, np.float32), "var": VAR}}
    expected = moments(x, ddof=1)[1]
    _, stats = train(BatchNorm(momentum=0.0), x, variables)
    np.testing.assert_allclose(stats["var"], expected, rtol=1e-6 + 4 * 2**-24 * gap**2)
    _, stats = train(BatchNorm(momentum=0.0), x, {**variables, "batch_stats": stats})
    np.testing.assert_allclose(stats["var"], expected, rtol=1e-6)


KERNEL = np.random.default_rng(5).normal(0, 0.7, (2, 3)).astype(np.float32)  # 2 channels to 3


class Pair(nn.Module):
    """A 1x1 convolution and a norm, as two layers or as one."""

    norm: BatchNorm
    as_one: bool

    def __call__(self, x, kernel):
        if self.as_one:
            return self.norm(x, train=True, kernel=kernel)
        y = jnp.einsum("bhwc,cf->bhwf", x, kernel.astype(x.dtype))
        return self.norm(y, train=True)


def pair(as_one: bool, x: jax.Array, kernel: np.ndarray = KERNEL, **options):
    """Output, statistics and the gradients for (scale and bias, x, kernel) of a fixed sum."""
    module = Pair(BatchNorm(**options), as_one)
    up = jnp.asarray(maps(9, (*x.shape[:-1], 3)), x.dtype)

    @partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def run(params, x, kernel):
        variables = {"params": {"norm": params}, "batch_stats": {"norm": VARIABLES["batch_stats"]}}
        y, updates = module.apply(variables, x, kernel, mutable=["batch_stats"])
        return (y * up).sum().astype(jnp.float32), (y, updates["batch_stats"]["norm"])

    grads, (y, stats) = run(VARIABLES["params"], x, jnp.asarray(kernel))
    return y, stats, grads


@pytest.mark.parametrize(
    "options", [{}, {"group_size": 4}, {"frozen": True}, {"epsilon": 0.5}], ids=str
)
def test_a_norm_with_the_convolution_before_it(options):
    """Output, statistics and every gradient, against the two layers; in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(maps(0, (8, 3, 2, 2)), jnp.float64)
        two, one = (pair(as_one, x, dtype=jnp.float64, **options) for as_one in (False, True))
        for actual, expected in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(one[0], two[0], rtol=1e-11, atol=1e-12)


def test_a_norm_with_the_convolution_before_it_in_bfloat16():
    """Close to float64 for a type of eight bits, under a gradient with a large mean."""
    x = np.maximum(maps(0, (16, 8, 8, 64), mean=0), 0).astype(jnp.bfloat16)
    kernel = np.random.default_rng(5).normal(0, 0.1, (64, 3)).astype(np.float32)
    with jax.enable_x64(True):
        exact = pair(True, jnp.asarray(x, jnp.float64), kernel, dtype=jnp.float64)
    off = {}
    for as_one in (False, True):
        found = pair(as_one, jnp.asarray(x), kernel, dtype=jnp.bfloat16)
        assert found[0].dtype == found[2][1].dtype == jnp.bfloat16
        off[as_one] = [
            np.sqrt(np.mean((np.asarray(a, np.float64) - e) ** 2) / np.mean(np.square(e)))
            for a, e in zip(*map(jax.tree.leaves, jax.device_get((found, exact))), strict=True)
        ]
    assert all(error < 2**-5 for error in off[True]), off


def test_a_norm_with_the_convolution_before_it_can_be_differentiated_again():
    """Forward over forward, forward over reverse, and under vmap."""
    norm = BatchNorm()

    def total(kernel, x):
        y, _ = norm.apply(VARIABLES, x, train=True, kernel=kernel, mutable=["batch_stats"])
        return (y**3).sum()

    x, direction = jnp.asarray(maps(0, (4, 2, 2, 2))), jnp.ones_like(KERNEL)
    jvp = jax.jvp(lambda k: total(k, x), (KERNEL,), (direction,))[1]
    grad = jax.grad(total)(KERNEL, x)
    np.testing.assert_allclose(jvp, (grad * direction).sum(), rtol=1e-4)
    twice = jax.jvp(lambda k: jax.grad(total)(k, x), (KERNEL,), (direction,))[1]
    hessian = jax.hessian(total)(KERNEL, x)
    np.testing.assert_allclose(twice, hessian.sum((2, 3)), rtol=1e-3, atol=1e-2)
    many = jax.vmap(jax.grad(total), (None, 0))(KERNEL, jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(many[1], jax.grad(total)(KERNEL, 2 * x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", [True, False])
def test_dtype_is_that_of_the_module_and_not_of_the_input(mode):
    for dtype, x in ((jnp.bfloat16, maps(0)), (jnp.float32, maps(0).astype(jnp.bfloat16))):
        norm = BatchNorm(dtype=dtype)
        y, _ = norm.apply(VARIABLES, jnp.asarray(x), train=mode, mutable=["batch_stats"])
        assert y.dtype == dtype


def test_a_constant_channel_is_finite():
    x = np.full((4, 2, 2, 3), 7, np.float32)
    y, _ = train(BatchNorm(), x)
    # The relative error of the mean is 2^-23; divided by the root of epsilon, that is at most 0.01.
    np.testing.assert_allclose(y, np.broadcast_to(BIAS, x.shape), atol=7 * 2**-23 / 1e-5**0.5 * 2)
    _, dx = gradients(BatchNorm(), x, maps(0, x.shape))
    assert np.isfinite(dx).all()


def test_the_whole_batch_is_the_global_one_when_it_is_sharded():
    x = np.concatenate([maps(seed, (1, 2, 2, 3), mean=seed) for seed in range(8)])
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    y, stats = jax.jit(lambda x: train(BatchNorm(), x))(sharded)
    mean, var = moments(x)
    assert_close(y, normalised(x, mean, var), 1e-5)
    assert_close(stats["mean"], 0.9 * MEAN + 0.1 * mean)
    assert_close(stats["var"], 0.9 * VAR + 0.1 * var * 32 / 31)


def test_a_float64_layer_computes_in_float64():
    with jax.enable_x64(True):
        x = maps(0, (8, 3)).astype(np.float64)
        y, stats = train(BatchNorm(momentum=0.0, dtype=jnp.float64), x)
        mean, var = moments(x)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, normalised(x, mean, var), rtol=1e-12)
        np.testing.assert_allclose(stats["mean"], mean, rtol=1e-6)


def test_the_dtype_of_statistics_survives_a_float64_step():
    with jax.enable_x64(True):
        _, stats = train(BatchNorm(dtype=jnp.float64), maps(0).astype(np.float64))
        assert {leaf.dtype for leaf in stats.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
@pytest.mark.parametrize("product", [False, True])
def test_on_a_cpu_the_gradient_after_a_norm_is_computed_once(product, dtype):
    """Not in each sum that reads it: a condition separates them."""
    norm, x = BatchNorm(dtype=dtype), jnp.ones((4, 5, 5, 3), dtype)
    kernel = jnp.ones((3, 6)) if product else None
    variables = norm.init(jax.random.key(0), x, train=True, kernel=kernel)

    def loss(x, variables):
        y, _ = norm.apply(variables, x, train=True, kernel=kernel, mutable=["batch_stats"])
        return jnp.square(nn.relu(y)).sum()

    program = jax.jit(jax.grad(loss)).lower(x, variables).compile().as_text()
    assert program.count(" conditional(") == 1
