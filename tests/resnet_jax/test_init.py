"""Initialisers: variances in closed form, and the same values with and without `jit`."""

import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax.init import (
    constant,
    dense_uniform,
    kaiming_normal,
    kaiming_uniform,
    kernel_initializer,
    normal,
    small_normal,
    xavier_normal,
    xavier_uniform,
    zeros,
)
from resnet_jax.spec import KernelInit

KERNEL = (3, 3, 64, 96)
GROUPED = (3, 3, 4, 96)  # 16 groups: a filter sees 4 of the 64 inputs
DENSE = (512, 100)
NAMES = get_args(KernelInit)


def by_name(name):
    return kernel_initializer(name, "out", 0.0, 0.2)


@pytest.mark.parametrize(
    ("init", "shape", "variance"),
    [
        (kaiming_normal(), KERNEL, 2 / (9 * 96)),
        (kaiming_normal(), GROUPED, 2 / (9 * 96)),
        (kaiming_normal(), DENSE, 2 / 100),
        (kaiming_normal("in"), KERNEL, 2 / (9 * 64)),
        (kaiming_normal("in"), GROUPED, 2 / (9 * 4)),
        (kaiming_normal("out", 0.25), KERNEL, 2 / ((1 + 0.25**2) * 9 * 96)),
        (kaiming_uniform(), KERNEL, 2 / (9 * 96)),
        (kaiming_uniform("in", 0.25), GROUPED, 2 / ((1 + 0.25**2) * 9 * 4)),
        (xavier_normal(), KERNEL, 2 / (9 * 64 + 9 * 96)),
        (xavier_uniform(), KERNEL, 2 / (9 * 64 + 9 * 96)),
        (xavier_uniform(), GROUPED, 2 / (9 * 4 + 9 * 96)),
        (xavier_uniform(), DENSE, 2 / 612),
        (dense_uniform(), DENSE, 1 / (3 * 512)),
        (small_normal(), KERNEL, 1e-4),
        (small_normal(0.2), DENSE, 0.04),
        (normal(0.05), KERNEL, 0.0025),
    ],
)
def test_mean_and_variance(init, shape, variance):
    draws = np.asarray(init(jax.random.key(3), shape), np.float64)
    assert draws.shape == shape
    n = draws.size
    assert abs(draws.mean()) < 4 * math.sqrt(variance / n)
    assert draws.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / n))
    # Every tap and every channel is drawn: no axis along which the numbers repeat.
    assert len(np.unique(draws)) > 0.98 * n


def test_distributions():
    for init, shape, bound in (
        (xavier_uniform(), KERNEL, math.sqrt(6 / (9 * 64 + 9 * 96))),
        (dense_uniform(), DENSE, 1 / math.sqrt(512)),
        (kaiming_uniform(), KERNEL, math.sqrt(6 / (9 * 96))),
        (kaiming_uniform("in", 0.5), KERNEL, math.sqrt(6 / (1.25 * 9 * 64))),
    ):
        uniform = np.asarray(init(jax.random.key(0), shape))
        assert 0.999 * bound < uniform.max() <= np.float32(bound)
        assert 0.999 * bound < -uniform.min() <= np.float32(bound)
    for init in (kaiming_normal(), small_normal(), xavier_normal(), normal(0.3)):
        draws = np.asarray(init(jax.random.key(0), KERNEL), np.float64)
        scores = draws / draws.std()
        assert (scores**4).mean() == pytest.approx(3, abs=0.15)  # uniform: 1.8


def test_zeros():
    assert not np.asarray(zeros()(jax.random.key(0), KERNEL)).any()


def test_constants():
    assert np.asarray(constant(-0.5)(jax.random.key(0), (3,))).tolist() == [-0.5] * 3
    assert constant(0.0) is zeros()


def test_names():
    shape = (64, 128)
    stds = {name: float(by_name(name)(jax.random.key(0), shape).std()) for name in NAMES}
    assert stds == {
        "kaiming_normal": pytest.approx(1 / 8, rel=0.05),
        "kaiming_uniform": pytest.approx(1 / 8, rel=0.05),
        "xavier_normal": pytest.approx(math.sqrt(2 / 192), rel=0.05),
        "xavier_uniform": pytest.approx(math.sqrt(2 / 192), rel=0.05),
        "normal": pytest.approx(0.2, rel=0.05),
        "small_normal": pytest.approx(0.01, rel=0.05),
        "zeros": 0,
    }
    wide = kernel_initializer("kaiming_uniform", "in", 1.0, 0.2)(jax.random.key(0), shape)
    assert float(wide.std()) == pytest.approx(math.sqrt(1 / 64), rel=0.05)


def test_numbers_are_pinned():
    """A change here changes the weights of every seed, on every machine."""
    kernel = np.asarray(kaiming_normal()(jax.random.key(0), (3, 3, 2, 4)))
    first = np.float32([-0.048548546, -0.030369047, -0.06830413, -0.29979992])
    final = np.float32([-0.13804591, -0.100196555, 0.3043985, -0.19792362])
    np.testing.assert_array_equal(kernel[0, 0, 0], first)
    np.testing.assert_array_equal(kernel[2, 2, 1], final)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_numbers_jitted_and_eager(name):
    init = by_name(name)
    key, shape = jax.random.key(7), (3, 3, 4, 8)
    eager = np.asarray(init(key, shape))
    np.testing.assert_array_equal(eager, init(key, shape))
    np.testing.assert_array_equal(eager, jax.jit(lambda key: init(key, shape))(key))
    np.testing.assert_array_equal(eager, init(jax.random.PRNGKey(7), shape))  # an old-style key


def test_the_same_numbers_born_sharded():
    init, shape = kaiming_normal(), (3, 3, 4, 8)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    for spec in (PartitionSpec(), PartitionSpec(None, None, None, "data")):
        draw = jax.jit(lambda key: init(key, shape), out_shardings=NamedSharding(mesh, spec))
        born = draw(jax.random.key(7))
        assert born.sharding.is_equivalent_to(NamedSharding(mesh, spec), 4)
        np.testing.assert_array_equal(born, init(jax.random.key(7), shape))


def test_every_bit_of_the_key_counts():
    words = jnp.asarray([[0, 0], [0, 1], [1, 0], [1, 1], [1 << 31, 0], [0, 1 << 31]], jnp.uint32)
    draws = [small_normal()(jax.random.wrap_key_data(w), (4,)).tolist() for w in words]
    assert len({tuple(draw) for draw in draws}) == len(draws)


@pytest.mark.parametrize("jit", [False, True])
def test_vmap_over_keys_gives_what_single_calls_give(jit):
    init, keys = kaiming_normal(), jax.random.split(jax.random.key(1), 3)
    many = jax.vmap(lambda key: init(key, (3, 3, 2, 4)))
    together = (jax.jit(many) if jit else many)(keys)
    np.testing.assert_array_equal(together, [init(key, (3, 3, 2, 4)) for key in keys])
    assert len({float(draw.sum()) for draw in together}) == 3


def test_nothing_is_drawn_for_a_shape():
    """Of a kernel that no machine could hold: 32 TB."""
    huge = (1, 1, 2**20, 2**23)

    def init(key):
        return kaiming_normal()(key, huge)

    out = jax.eval_shape(init, jax.random.key(0))
    assert (out.shape, out.dtype) == (huge, jnp.float32)
    assert "8388608xf32" in jax.jit(init).lower(jax.random.key(0)).as_text()


@pytest.mark.parametrize("name", NAMES)
def test_dtype(name):
    init = by_name(name)
    key, shape = jax.random.key(0), (3, 3, 2, 4)
    assert init(key, shape).dtype == jnp.float32
    half = init(key, shape, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, init(key, shape).astype(jnp.bfloat16))
