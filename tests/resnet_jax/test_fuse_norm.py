"""`fuse_norm`: a 1x1 convolution that adds channels and its BatchNorm, as one layer or as two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.systems import jax_systems
from resnet_jax import create_model
from resnet_jax.conv import Conv
from resnet_jax.norm import BatchNorm
from resnet_jax.resnet import ResNet
from resnet_jax.zoo import get_spec
from tests.networks import at_random, images, jit, paths, shapes
from tests.runs import tiny

# One bottleneck block without a stem pool: its last and its shortcut's 1x1 convolution widen.
SPEC = {"depths": (1,), "block": "bottleneck", "width": 16, "shortcut": "B", "zero_gamma": False}
SPEC["activation"] = "tanh"  # rounding turns the slope of a ReLU near 0 into another
X = images()


def network(**options) -> ResNet:
    return create_model("resnet20_cifar", 5, **SPEC, **options).backbone


VARIABLES = at_random(shapes(network()))


def trained(dtype, x=X, variables=VARIABLES, **options):
    """(output, new statistics, gradients of a fixed sum) of the network in training."""
    model = network(dtype=dtype, **options)

    def loss(params, x):
        given = {**variables, "params": params}
        pyramid, updates = model.apply(given, x, train=True, mutable=["batch_stats"])
        y = pyramid["c2"].astype(jnp.promote_types(dtype, jnp.float32))
        return (y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum(), (y, updates)

    grads, (y, updates) = jit(jax.grad(loss, has_aux=True))(variables["params"], x)
    return paths({"y": y, **updates, "grads": grads})


def off(a: dict, exact: dict) -> dict[str, float]:
    """Error of each array, relative to its norm."""
    assert a.keys() == exact.keys()
    norm = np.linalg.norm
    return {k: float(norm(np.float64(a[k]) - exact[k]) / norm(exact[k])) for k in exact}


@pytest.fixture(scope="module")
def exact() -> dict:
    """The result of two layers in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), VARIABLES)
        x = jnp.asarray(X, jnp.float64)
        found = trained(jnp.float64, x, wide, fuse_norm=False)
        assert all(found[key].dtype == np.float64 for key in found if "grads" in key)
        return found


@pytest.mark.parametrize("fuse_norm", [True, False])
def test_one_layer_or_two_are_equal_within_rounding(exact, fuse_norm):
    """bfloat16 has 8 bits: a rounding costs 2^-8, and there are several."""
    errors = off(trained(jnp.bfloat16, fuse_norm=fuse_norm), exact)
    assert errors["y"] < 2**-7 and max(errors.values()) < 2**-4, errors
    statistics = [error for key, error in errors.items() if key.startswith("batch_stats")]
    assert max(statistics) < 2**-8


def test_float32_is_not_fused():
    one, two = (trained(jnp.float32, fuse_norm=fuse) for fuse in (True, False))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_off_is_convolution_then_batch_norm_to_the_bit():
    """Layer by layer, in bfloat16, without a compiler that could fuse them."""
    params, stats = (VARIABLES[c]["stage1"]["block1"] for c in ("params", "batch_stats"))

    def conv_norm(x, conv, norm, kernel):
        features = params[conv]["kernel"].shape[-1]
        x = Conv(features, kernel, dtype=jnp.bfloat16).apply({"params": params[conv]}, x)
        layer = BatchNorm(dtype=jnp.bfloat16)
        given = {"params": params[norm], "batch_stats": stats[norm]}
        return layer.apply(given, x, train=True, mutable=["batch_stats"])[0]

    def found(fuse_norm):
        model = network(dtype=jnp.bfloat16, fuse_norm=fuse_norm)
        return model.apply(VARIABLES, X, train=True, mutable=["batch_stats"])[0]

    with jax.disable_jit():
        two = found(False)
        y = jnp.tanh(conv_norm(two["c1"], "conv1", "norm1", 1))
        y = jnp.tanh(conv_norm(y, "conv2", "norm2", 3))
        y = conv_norm(y, "conv3", "norm3", 1)
        y = jnp.tanh(y + conv_norm(two["c1"], "shortcut_conv", "shortcut_norm", 1))
        np.testing.assert_array_equal(two["c2"], y)
        assert (np.asarray(found(True)["c2"]) != np.asarray(y)).any()


def products(**options) -> tuple[int, int]:
    """(convolutions, other matrix products) of a training pass as a TPU's compiler gets it."""
    model = network(dtype=jnp.bfloat16, **options)

    def forward(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    text = jax.jit(forward).trace(VARIABLES, X).lower(lowering_platforms=("tpu",)).as_text()
    return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")


def test_the_program_differs():
    """Two layers are the network's 5 convolutions and nothing else. Fused, the Gram matrix, mean
    and variance of the input, and the offset, are four small products for each of two layers."""
    assert products(fuse_norm=False) == (5, 0)
    assert products() == products(fuse_norm=True) == (5, 2 * 4)


def test_the_benchmark_without_it_does_not_change_other_systems():
    """Both in one process, the network without it first: each has its own program."""
    config = tiny(precision="bf16", model=model_config(), norm_group_size=None)

    def dots(name: str) -> int:
        made = jax_systems.BUILDERS[name](config, jax.devices()[:1])
        lowered = made.step.trace(made.abstract_state, made.abstract_batch)
        return lowered.lower(lowering_platforms=("tpu",)).as_text().count("stablehlo.dot_general")

    plain, fused = dots("ours-plain-norm"), dots("ours")
    assert plain == 3  # the head's, forward and twice backward
    assert fused > plain and dots("ours-plain-norm") == plain


def model_config():
    from train.config import ModelConfig

    return ModelConfig(name="resnet20_cifar", **SPEC)


def test_names_that_have_no_batch_norm():
    assert get_spec("lenet5") is not None
    assert create_model("lenet5", 10, fuse_norm=False) == create_model("lenet5", 10)
