"""GroupNorm against closed forms in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.norm import GroupNorm
from tests.resnet_jax.test_norm import assert_close, assert_same_bits, maps


def grouped(x: np.ndarray, groups: int, epsilon: float, scale: np.ndarray, bias: np.ndarray):
    """Wu 2018, equations 1 to 4: an example and a group of consecutive channels at a time."""
    out, size = np.empty(x.shape, np.float64), x.shape[-1] // groups
    for example in range(x.shape[0]):
        for g in range(groups):
            part = x[example, ..., g * size : (g + 1) * size].astype(np.float64)
            hat = (part - part.mean()) / np.sqrt(part.var() + epsilon)
            out[example, ..., g * size : (g + 1) * size] = hat
    return out * scale + bias


def group_variables(channels: int) -> dict:
    rng = np.random.default_rng(7)
    params = {name: rng.normal(1, 0.5, channels).astype(np.float32) for name in ("scale", "bias")}
    return {"params": params}


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize(
    ("shape", "groups", "epsilon"),
    [((4, 3, 5, 12), 4, 1e-5), ((3, 2, 2, 12), 1, 0.5), ((2, 5, 1, 6), 6, 1e-5), ((5, 8), 2, 1e-3)],
)
def test_group_norm(shape, groups, epsilon, mode):
    x, variables = maps(0, shape), group_variables(shape[-1])
    y, updates = GroupNorm(groups, epsilon).apply(variables, x, train=mode, mutable=["batch_stats"])
    assert_close(y, grouped(x, groups, epsilon, **variables["params"]), 1e-5)
    assert y.dtype == jnp.float32 and not updates  # it keeps no statistics


def test_group_norm_of_a_bfloat16_map_with_a_large_mean():
    x, variables = maps(0, (4, 8, 8, 12), mean=100, std=1), group_variables(12)
    x = jnp.asarray(x, jnp.bfloat16)
    y = GroupNorm(4, dtype=jnp.bfloat16).apply(variables, x, train=True)
    assert y.dtype == jnp.bfloat16
    expected = grouped(np.asarray(x), 4, 1e-5, **variables["params"])
    # One rounding to eight bits, of a result that was computed in float32.
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-4)


def test_variables_of_group_norm():
    x = jnp.asarray(maps(0, (2, 4, 4, 6)), jnp.bfloat16)
    variables = GroupNorm(3, dtype=jnp.bfloat16).init(jax.random.key(0), x, train=True)
    assert set(variables) == {"params"}
    assert_same_bits(variables["params"], {"scale": np.ones(6), "bias": np.zeros(6)})
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    zero = GroupNorm(3, scale_init=jax.nn.initializers.zeros).init(jax.random.key(0), x, train=True)
    assert_same_bits(zero["params"], {"scale": np.zeros(6), "bias": np.zeros(6)})


def test_group_norm_computes_in_float64_for_those_who_ask():
    with jax.enable_x64(True):
        x, variables = maps(0, (4, 3, 5, 12)).astype(np.float64), group_variables(12)
        y = GroupNorm(4, dtype=jnp.float64).apply(variables, jnp.asarray(x), train=True)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, grouped(x, 4, 1e-5, **variables["params"]), rtol=1e-11)


@pytest.mark.parametrize("groups", [5, 24])
def test_groups_that_do_not_divide_the_channels(groups):
    with pytest.raises(ValueError, match=f"groups {groups}: does not divide 12 channels"):
        GroupNorm(groups).init(jax.random.key(0), maps(0, (2, 3, 3, 12)), train=True)
