"""The CPU forms of convolutions and the max pool equal XLA's, to rounding."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import conv
from resnet_jax.conv import convolve, max_pool
from resnet_jax.cpu_conv import xla_conv

# x [H, W, C_in], kernel size, C_out, stride, groups, dilation
CASES = {
    "1x1": ((6, 5, 8), 1, 4, 1, 1, 1),
    "1x1 stride 2": ((7, 6, 8), 1, 4, 2, 1, 1),
    "2x2 map": ((2, 2, 6), 3, 4, 1, 1, 1),
    "1x1 map": ((1, 1, 6), 3, 4, 1, 1, 1),
    "4x3 map, stride 2": ((4, 3, 6), 3, 4, 2, 1, 1),
    "7x7 map, many channels": ((7, 7, 256), 3, 4, 1, 1, 1),
    "dilated, small": ((2, 2, 6), 3, 4, 1, 1, 2),
    "7x7 map, few channels": ((7, 7, 128), 3, 4, 1, 1, 1),
    "dilated": ((9, 8, 6), 3, 4, 1, 1, 2),
    "stride 2": ((9, 8, 6), 3, 4, 2, 1, 1),
    "dilated, stride 2": ((9, 8, 6), 3, 4, 2, 1, 2),
    "stem": ((9, 8, 3), 7, 4, 2, 1, 1),
    "groups in one run": ((5, 6, 12), 3, 8, 1, 4, 1),
    "groups in runs of 4": ((5, 6, 128), 3, 128, 2, 8, 1),
    "wide groups": ((4, 4, 160), 3, 4, 1, 2, 1),
    "depthwise": ((5, 4, 6), 3, 6, 1, 6, 1),
    "grouped 1x1": ((5, 4, 6), 1, 4, 1, 2, 1),
    "grouped, dilated": ((6, 6, 8), 3, 8, 1, 2, 2),
}

TOLERANCE = 2e-6


def case(name: str):
    """(the network's function, XLA's, input, kernel) of a case."""
    shape, size, features, stride, groups, dilation = CASES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *shape)).astype(np.float32)
    kernel = rng.normal(size=(size, size, shape[2] // groups, features)).astype(np.float32)
    ours = partial(convolve, stride=stride, groups=groups, dilation=dilation)
    native = partial(xla_conv, stride=stride, groups=groups, dilation=dilation)
    return ours, native, x, kernel


def exact(f, *args):
    """f in float64, for XLA's convolution."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), args)
        return jax.device_get(jax.jit(f)(*wide))


def close(got, wanted):
    """Compares with float64, to the precision of float32 sums of a thousand terms."""

    def check(a, b):
        assert a.shape == b.shape and a.dtype == jnp.float32 and b.dtype == np.float64
        off = np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
        assert off <= TOLERANCE, f"{off:.1e}"

    jax.tree.map(check, got, wanted)


# Number of convolutions on a CPU: in the forward pass, and in total with both gradients. With 0,
# they are matrix products. The input gradient of a strided 3x3 is a matrix product too. Groups are
# merged up to 64 channels.
CONVOLUTIONS = {
    **dict.fromkeys(("1x1", "1x1 stride 2", "2x2 map", "1x1 map"), (0, 0)),
    **dict.fromkeys(("4x3 map, stride 2", "7x7 map, many channels", "dilated, small"), (0, 0)),
    **dict.fromkeys(("7x7 map, few channels", "dilated", "stem"), (1, 3)),
    **dict.fromkeys(("stride 2", "dilated, stride 2"), (1, 2)),
    **dict.fromkeys(("groups in one run", "depthwise", "grouped 1x1", "grouped, dilated"), (1, 3)),
    **dict.fromkeys(("groups in runs of 4", "wide groups"), (2, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_number_of_convolutions_on_a_cpu(name):
    """Counted in the program before compilation, in which no convolution has groups."""
    ours, _, x, kernel = case(name)

    def program(f):
        return jax.jit(f).trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()

    forward = program(ours)
    both = program(jax.grad(lambda *args: jnp.square(ours(*args)).sum(), (0, 1)))
    found = tuple(text.count("stablehlo.convolution") for text in (forward, both))
    assert found == CONVOLUTIONS[name]
    assert forward.count("stablehlo.dot_general") == (found[0] == 0)
    for text in (forward, both):
        for groups in ("feature_group_count", "batch_group_count"):
            assert set(re.findall(rf"{groups} = (\d+)", text)) == ({"1"} if found[0] else set())


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives(name):
    ours, native, x, kernel = case(name)

    def everything(f, x, kernel):
        directions = jnp.cos(x), jnp.sin(kernel)
        loss = lambda *args: jnp.square(f(*args)).sum()  # noqa: E731
        gradient = jax.grad(loss, (0, 1))
        tangents = jax.jvp(f, (x, kernel), directions)  # forward mode
        second = jax.jvp(gradient, (x, kernel), directions)  # forward over reverse
        twice = jax.grad(lambda *args: sum(map(jnp.vdot, gradient(*args), directions)), (0, 1))
        return tangents, second, twice(x, kernel)

    close(
        jax.jit(partial(everything, ours))(x, kernel),
        exact(partial(everything, native), x, kernel),
    )


@pytest.mark.parametrize("name", ["1x1", "2x2 map", "groups in one run"])
def test_vmap(name):
    ours, native, x, kernel = case(name)
    many = jnp.stack([kernel, 2 * kernel, -kernel])
    close(jax.vmap(ours, (None, 0))(x, many), exact(jax.vmap(native, (None, 0)), x, many))
    close(slopes(ours, x, many), exact(partial(slopes, native), x, many))


def slopes(f, x, kernels):
    """Gradients for each of several kernels, under vmap."""
    return jax.vmap(jax.grad(lambda k: jnp.square(f(x, k)).sum()))(kernels)


@pytest.mark.parametrize("name", ["7x7 map, few channels", "dilated", "groups in one run"])
def test_gradients_in_a_loop(name):
    """First and second, in reverse mode and under vmap; forward mode is refused."""
    ours, native, x, kernel = case(name)
    looped = partial(ours, in_scan=True)
    many = jnp.stack([kernel, 2 * kernel, -kernel])

    def everything(f, x, kernel):
        directions = jnp.cos(x), jnp.sin(kernel)
        gradient = jax.grad(lambda *args: jnp.square(f(*args)).sum(), (0, 1))
        twice = jax.grad(lambda *args: sum(map(jnp.vdot, gradient(*args), directions)), (0, 1))
        return f(x, kernel), gradient(x, kernel), twice(x, kernel)

    close(
        jax.jit(partial(everything, looped))(x, kernel),
        exact(partial(everything, native), x, kernel),
    )
    close(slopes(looped, x, many), exact(partial(slopes, native), x, many))
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(looped, (x, kernel), (x, kernel))


def test_a_loop_has_convolutions_with_their_axes_in_place_on_a_cpu():
    """In this axis order, XLA's CPU compiler calls its library, also inside a loop."""
    ours, _, x, kernel = case("7x7 map, few channels")
    gradient = jax.jit(jax.grad(lambda x, k: jnp.square(ours(x, k, in_scan=True)).sum(), (0, 1)))
    text = gradient.trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert text.count("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]") == 3


def test_other_platforms_use_xlas_operations():
    """A program for a TPU has convolutions and windows, and no matrix product."""
    ours, _, x, kernel = case("1x1")
    step = jax.jit(jax.grad(lambda k: jnp.square(max_pool(ours(x, k))).sum()))
    text = step.trace(kernel).lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.convolution" in text and "stablehlo.select_and_scatter" in text
    assert "stablehlo.dot_general" not in text
    text = step.trace(kernel).lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.dot_general" in text and "stablehlo.select_and_scatter" not in text


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("zero_pad", [False, True])
def test_max_pool_and_its_gradient_are_xlas_to_the_bit(stride, zero_pad):
    """Also for ties, which are frequent in small integers: the first pixel has the gradient."""
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (2, 9, 8, 3)).astype(np.float32)
    options = {"stride": stride, "zero_pad": zero_pad}
    wanted, back = jax.vjp(partial(conv._xla_max_pool, **options), x)
    got, ours = jax.vjp(lambda x: max_pool(x, stride, zero_pad=zero_pad), x)
    np.testing.assert_array_equal(got, wanted)
    weights = rng.integers(1, 9, wanted.shape).astype(np.float32)
    np.testing.assert_array_equal(ours(weights)[0], back(weights)[0])


def test_max_pool_keeps_a_nan_in_every_window_that_sees_it():
    for row in range(6):
        x = np.zeros((1, 6, 6, 1), np.float32)
        x[0, row, 2] = np.nan
        wanted = conv._xla_max_pool(jnp.asarray(x), stride=2, zero_pad=False)
        np.testing.assert_array_equal(max_pool(jnp.asarray(x)), wanted)
        assert np.isnan(wanted).any()
