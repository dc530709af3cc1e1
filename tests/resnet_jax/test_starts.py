"""Initial values that are options of the spec, and the activation that has parameters."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.heads.classifier import Classifier, create_model
from resnet_jax.layers import PReLU, activate
from resnet_jax.resnet import ResNet
from resnet_jax.spec import LeNetSpec, ResNetSpec
from resnet_jax.weights.torch_names import torch_layout
from resnet_jax.zoo import ZOO
from tests.networks import initialised, jit, paths, shapes

SMALL = ResNetSpec(depths=(1, 1), block="basic", width=8, stem="3x3", zero_gamma=False)


def started(spec: ResNetSpec, count: int = 5) -> dict[str, np.ndarray]:
    """The first parameters, by path."""
    return paths(initialised(Classifier(ResNet(spec), count))["params"])


def test_prelu_has_a_slope_for_each_channel():
    x = jnp.asarray([[-4.0, -4.0, 2.0], [1.0, -1.0, 0.0]])
    variables = {"params": {"slope": jnp.asarray([0.5, 0.1, 0.9])}}
    y = PReLU().apply(variables, x)
    np.testing.assert_allclose(y, [[-2.0, -0.4, 2.0], [1.0, -0.1, 0.0]], rtol=1e-6)
    slopes = jax.grad(lambda v: PReLU().apply(v, x).sum())(variables)["params"]["slope"]
    assert slopes.tolist() == [-4, -5, 0]  # He 2015, equation 10
    assert PReLU().apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert PReLU().init(jax.random.key(0), x)["params"]["slope"].tolist() == [0.25] * 3


def test_the_slope_of_leaky_relu():
    x = jnp.asarray([-2.0, 3.0])
    assert activate("leaky_relu", None, x, "a").tolist() == pytest.approx([-0.02, 3])
    assert activate("leaky_relu", 0.3, x, "a").tolist() == pytest.approx([-0.6, 3])
    with_slope = started(replace(SMALL, activation="prelu", activation_slope=0.1))
    slopes = {path: value for path, value in with_slope.items() if path.endswith("slope")}
    assert {float(value.min()) for value in slopes.values()} == {np.float32(0.1)}
    assert sorted(path.removeprefix("backbone/") for path in slopes) == [
        *(f"stage{s}/block1/act{i}/slope" for s in (1, 2) for i in (1, 2)),
        "stem_act1/slope",
    ]


@pytest.mark.parametrize("deep", [False, True])
def test_slopes_have_torchs_names(deep):
    """Those of the modules act1, act2 and so on in timm's networks."""
    stem = {"stem": "deep", "stem_pool": "conv"} if deep else {}
    names = {}
    for kind in ("relu", "prelu"):
        spec = replace(SMALL, activation=kind, **stem)
        names[kind] = set(torch_layout(spec, shapes(Classifier(ResNet(spec), 3))))
    in_stem = {"conv1.2.weight", "conv1.5.weight", "maxpool.2.weight"} if deep else set()
    in_blocks = {f"layer{s}.0.act{i}.weight" for s in (1, 2) for i in (1, 2)}
    assert names["prelu"] - names["relu"] == {"act1.weight"} | in_stem | in_blocks


@pytest.mark.parametrize("preact", [False, True])
def test_a_branch_whose_last_kernel_is_zero(preact):
    spec = replace(SMALL, zero_conv=True, preact=preact)
    params = started(spec)
    zero = [k for k, v in params.items() if k.endswith("kernel") and not v.any()]
    assert zero == [f"backbone/stage{s}/block1/conv2/kernel" for s in (1, 2)]
    assert all(v.all() for k, v in params.items() if k.endswith("scale"))


def test_a_branch_that_no_gradient_would_reach_is_refused():
    with pytest.raises(ValueError, match="zero_conv: with zero_gamma no gradient would reach"):
        replace(SMALL, zero_conv=True, zero_gamma=True)
    replace(SMALL, zero_conv=True, zero_gamma=True, shortcut="none")  # in which neither acts


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_biases_and_the_classifier(norm):
    spec = replace(SMALL, norm=norm, norm_groups=4, norm_bias=0.1, head_std=0.3, head_bias=-2.0)
    params = started(spec, count=400)
    biases = {k: set(v.tolist()) for k, v in params.items() if k.endswith("bias")}
    assert biases.pop("head/bias") == {-2.0}
    assert set(map(tuple, biases.values())) == {(float(np.float32(0.1)),)} and len(biases) == 6
    assert params["head/kernel"].std() == pytest.approx(0.3, rel=0.03)
    uniform = started(SMALL, count=400)["head/kernel"]
    assert uniform.std() == pytest.approx(1 / np.sqrt(3 * 16), rel=0.03)
    assert not started(replace(SMALL, head_std=0.0))["head/kernel"].any()


def test_fan_and_slope_reach_the_kernels():
    spec = replace(SMALL, kernel_init="kaiming_uniform", kernel_fan="in", kernel_slope=0.5)
    kernel = started(replace(spec, width=32))["backbone/stage2/block1/conv1/kernel"]
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / (1.25 * 9 * 32)), rel=0.01)


def test_lenet_takes_them_too():
    assert ZOO["lenet5"] == LeNetSpec()
    model = create_model("lenet5", 4, activation="prelu", head_std=0.0, head_bias=1.5)
    images = jnp.ones((1, 32, 32, 3))
    variables = jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
    logits = jit(lambda variables: model.apply(variables, images, train=False))(variables)
    assert logits.tolist() == [[1.5] * 4]
    assert variables["params"]["backbone"]["act4"]["slope"].shape == (84,)
    with pytest.raises(ValueError, match="head_bias nan: must be finite"):
        LeNetSpec(head_bias=float("nan"))
