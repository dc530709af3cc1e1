"""The options of a network: what starts at zero, dilates, and reaches every layer."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.heads.classifier import Classifier
from resnet_jax.layers import ACTIVATIONS, pad_shortcut
from resnet_jax.resnet import ResNet
from resnet_jax.spec import ResNetSpec
from tests.networks import images, initialised, jit, paths, run, shapes, variables_at_random

BOTTLENECK = ResNetSpec(depths=(2, 1), width=4)
BASIC = replace(BOTTLENECK, block="basic")
CIFAR = replace(BASIC, stem="3x3", shortcut="A")
SHORT = {"depths": (1, 1)}  # where only the first block of a stage matters


LAST = {"basic": 2, "bottleneck": 3}


@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.parametrize(
    ("block", "zero_gamma", "shortcut"),
    [
        ("basic", True, "B"),
        ("bottleneck", True, "C"),
        ("bottleneck", False, "B"),
        ("basic", True, "none"),
    ],
)
def test_what_starts_at_zero(block, preact, zero_gamma, shortcut):
    spec = ResNetSpec(
        depths=(2, 1), width=4, block=block, preact=preact, zero_gamma=zero_gamma, shortcut=shortcut
    )
    params = paths(initialised(ResNet(spec))["params"])
    zero = {path for path, value in params.items() if not value.any() and "bias" not in path}
    blocks = ["stage1/block1", "stage1/block2", "stage2/block1"]
    last = f"conv{LAST[block]}/kernel" if preact else f"norm{LAST[block]}/scale"
    # A plain network has no shortcuts: branches that start at zero would pass no signal.
    acts = zero_gamma and shortcut != "none"
    assert zero == ({f"{block}/{last}" for block in blocks} if acts else set())
    scales = {path: value for path, value in params.items() if path.endswith("scale")}
    assert all((value == 1).all() for path, value in scales.items() if path not in zero)
    assert not any(value.any() for path, value in params.items() if path.endswith("bias"))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_v1_blocks_start_as_identity_and_relu(block):
    """With shortcut A, which has no projection."""
    spec = replace(CIFAR, block=block, **SHORT)
    model = ResNet(spec)
    pyramid, _ = run(model, initialised(model), images(), train=True)
    wide = 4 if block == "basic" else 16
    c1, c2 = (jnp.asarray(pyramid[level]) for level in ("c1", "c2"))
    assert c1.any() and (c1 >= 0).all()
    np.testing.assert_array_equal(c2, pad_shortcut(c1, wide, 1))
    np.testing.assert_array_equal(pyramid["c3"], pad_shortcut(c2, 2 * wide, 2))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_v2_blocks_start_as_identity(block):
    spec = replace(CIFAR, depths=(1, 1, 1), block=block, preact=True)
    model = ResNet(spec)
    pyramid, _ = run(model, initialised(model), images(), train=True)
    wide = 4 if block == "basic" else 16
    c1, c2 = (jnp.asarray(pyramid[level]) for level in ("c1", "c2"))
    assert (c1 < 0).any()
    np.testing.assert_array_equal(c2, pad_shortcut(c1, wide, 1))
    np.testing.assert_array_equal(pyramid["c3"], pad_shortcut(c2, 2 * wide, 2))


def test_without_zero_gamma_a_block_does_something_at_once():
    for preact in (False, True):
        model = ResNet(replace(CIFAR, depths=(1, 1), zero_gamma=False, preact=preact))
        pyramid, _ = run(model, initialised(model), images(), train=True)
        assert np.abs(pyramid["c2"] - pyramid["c1"]).mean() > 0.1


@pytest.mark.parametrize("preact", [False, True])
def test_a_branch_can_leave_zero(preact):
    model = ResNet(replace(CIFAR, preact=preact, **SHORT))
    variables, x = initialised(model), images()
    up = np.random.default_rng(5).normal(size=(4, 6, 6, 8))

    def loss(params):
        pyramid, _ = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return (pyramid["c3"] * up).sum()

    slopes = paths(jit(jax.grad(loss))(variables["params"]))
    for block in ("stage1/block1", "stage2/block1"):
        last = f"{block}/conv2/kernel" if preact else f"{block}/norm2/scale"
        assert np.abs(slopes[last]).mean() > 1e-2, last
        # Behind a zero, nothing arrives yet.
        assert not slopes[f"{block}/conv1/kernel"].any()


def test_the_last_level_of_v2_is_behind_its_relu_and_the_others_are_not():
    model = ResNet(replace(CIFAR, depths=(1, 1, 1), preact=True))
    pyramid, _ = run(model, variables_at_random(model), images(), train=False)
    negative = {level: float((values < 0).mean()) for level, values in pyramid.items()}
    assert negative.pop("c4") == 0 and (pyramid["c4"] == 0).any() and (pyramid["c4"] > 0).any()
    assert min(negative.values()) > 0.2


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("kaiming_normal", math.sqrt(2 / (9 * 32))),
        ("xavier_uniform", math.sqrt(2 / (9 * 48))),
        ("small_normal", 0.01),
        ("normal", 0.05),
        ("zeros", 0),
    ],
)
def test_kernel_init(name, std):
    spec = ResNetSpec(depths=(1, 1), block="basic", width=16, kernel_init=name, kernel_std=0.05)
    params = paths(initialised(ResNet(spec))["params"])
    assert params["stage2/block1/conv1/kernel"].shape == (3, 3, 16, 32)
    assert params["stage2/block1/conv1/kernel"].std() == pytest.approx(std, rel=0.06)
    kernels = [value for path, value in params.items() if path.endswith("kernel")]
    assert len(kernels) == 6 and all(value.any() == (name != "zeros") for value in kernels)
    # Each has different values, also if two have the same shape.
    assert len({value.ravel()[0] for value in kernels}) == (6 if name != "zeros" else 1)


def test_norm_momentum_reaches_every_norm():
    spec = replace(BASIC, stem="deep", **SHORT)
    variables, x = variables_at_random(ResNet(spec)), images()
    before = paths(variables["batch_stats"])
    batches = []
    for momentum in (0.9, 0.25):
        _, stats = run(ResNet(replace(spec, norm_momentum=momentum)), variables, x, train=True)
        after = paths(stats)
        batches.append({p: (after[p] - momentum * before[p]) / (1 - momentum) for p in before})
    assert list(batches[0]) == list(batches[1])
    for path, batch in batches[0].items():
        np.testing.assert_allclose(batch, batches[1][path], rtol=1e-4, atol=1e-4, err_msg=path)


def test_norm_group_size_makes_the_groups_separate_batches():
    model = ResNet(CIFAR, norm_group_size=2)
    variables, x = variables_at_random(model), images(8)
    pyramid, stats = run(model, variables, x, train=True)
    halves = [run(ResNet(CIFAR), variables, half, train=True) for half in (x[:2], x[2:])]
    for level, values in pyramid.items():
        alone = np.concatenate([half[level] for half, _ in halves])
        np.testing.assert_allclose(values, alone, rtol=1e-4, atol=1e-5)
    expected = jax.tree.map(lambda *parts: np.mean(parts, 0), *(half for _, half in halves))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), stats, expected)


def test_a_frozen_network_trains_as_it_evaluates():
    model = ResNet(replace(BOTTLENECK, stem="deep", preact=True), freeze_norm=True)
    variables, x = variables_at_random(model), images()
    trained, stats = run(model, variables, x, train=True)
    evaluated, _ = run(model.clone(freeze_norm=False), variables, x, train=False)
    jax.tree.map(np.testing.assert_array_equal, trained, evaluated)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


@pytest.mark.parametrize(
    "spec", [replace(BOTTLENECK, stem="deep"), replace(CIFAR, preact=True)], ids=["v1", "v2"]
)
def test_training_moves_every_statistic_and_evaluation_none(spec):
    model = ResNet(spec)
    variables, x = variables_at_random(model), images()
    before = paths(variables["batch_stats"])
    _, trained = run(model, variables, x, train=True)
    moved = {path for path, value in paths(trained).items() if (value != before[path]).all()}
    assert moved == set(before)
    _, evaluated = run(model, variables, x, train=False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, variables["batch_stats"])


DILATED = {
    "v1.5": BOTTLENECK,
    "3x3 projection": replace(BOTTLENECK, shortcut_kernel=3, stem="deep"),
    "basic A": replace(BASIC, shortcut="A"),
    "v2 blur": replace(BASIC, preact=True, anti_alias="blur"),
    "v2 d": replace(BOTTLENECK, avg_down=True, preact=True),
    "avg": replace(BOTTLENECK, anti_alias="avg"),
    "v1": replace(BOTTLENECK, stride_at="1x1"),
}


@pytest.mark.parametrize(
    ("output_stride", "strides"),
    [(32, (2, 4, 8, 16, 32)), (16, (2, 4, 8, 16, 16)), (8, (2, 4, 8, 8, 8))],
)
@pytest.mark.parametrize("name", DILATED)
def test_output_stride_ends_the_pyramid(name, output_stride, strides):
    model = ResNet(replace(DILATED[name], depths=(1, 1, 2, 2), output_stride=output_stride))
    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    init = functools.partial(model.init_with_output, train=True)
    pyramid, variables = jax.eval_shape(init, jax.random.key(0), x)
    assert [out.shape[1:3] for out in pyramid.values()] == [(64 // s, 64 // s) for s in strides]
    # The weights of one fit the other.
    whole = shapes(model.clone(spec=replace(model.spec, output_stride=32)), 64)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, whole)


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        *((name, 16) for name in ("v1.5", "3x3 projection", "basic A", "v2 blur", "v2 d")),
        # Not those whose second stage in a row would have to dilate its blur or pool: timm does not
        *((name, 8) for name in ("v1.5", "3x3 projection", "basic A")),
        ("v1", 16),
    ],
)
def test_a_dilated_network_computes_the_same_at_more_places(name, output_stride):
    """Chen 2017, 3.1: at every second (fourth) pixel it is the network that strides."""
    spec = replace(DILATED[name], depths=(1, 1, 2, 2))
    model, x = ResNet(spec), images(64, batch=1)
    variables = variables_at_random(model)
    expected, _ = run(model, variables, x, train=False)
    dense = ResNet(replace(spec, output_stride=output_stride))
    pyramid, _ = run(dense, variables, x, train=False)
    for level, values in expected.items():
        step = pyramid[level].shape[1] // values.shape[1]
        assert step == {(16, "c5"): 2, (8, "c4"): 2, (8, "c5"): 4}.get((output_stride, level), 1)
        np.testing.assert_allclose(pyramid[level][:, ::step, ::step], values, 1e-4, 1e-4)
        assert values.std() > 0.05


ATTENTION = [{"attention": "se"}, {"attention": "eca"}]
NORM = [{"norm": "group", "norm_groups": 2}, {"weight_standardization": True}]
POOLS = [{"stem_pool": "conv"}, {"stem_pool": "zero_max"}, {"stem_pool": "fractional"}]
SHAPES = [
    *({"anti_alias": "avg"}, {"anti_alias": "blur", "output_stride": 8}, {"output_stride": 16}),
    {"stage_blocks": ("bottleneck", "basic", "basic"), "stage_widths": (4, 6, 10)},
    *({"reduce_first": 2, "shortcut_kernel": 3}, {"avg_down": True, "output_stride": 8}),
    {"stem": "tiered", "stem_width": 8},
]
NOISE = [{"drop_block": 0.2, "block_dropout": 0.2}, {"drop_connect": 0.2, "drop_path": 0.2}]
BACKBONE = ("backbone", "__call__")
ACTIVATED = [{"activation": name} for name in [*ACTIVATIONS, "prelu"]]


@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.parametrize(
    "changes", [*ATTENTION, *NORM, *POOLS, *SHAPES, *NOISE, *ACTIVATED], ids=str
)
def test_every_option_computes_in_the_dtype(changes, preact):
    """Maps in it, variables in float32, logits no narrower than float32."""
    spec = replace(BASIC, depths=(1, 1, 1), preact=preact, **changes)
    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)

    def dtypes(dtype):
        init = functools.partial(
            Classifier(ResNet(spec, dtype), 3).init_with_output,
            train=True,
            capture_intermediates=lambda module, method: (module.name, method) == BACKBONE,
            mutable=True,
        )
        logits, variables = jax.eval_shape(init, jax.random.key(0), x)
        maps = variables.pop("intermediates")["backbone"]
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {"float32"}
        return {str(leaf.dtype) for leaf in jax.tree.leaves(maps)}, str(logits.dtype)

    assert dtypes(jnp.bfloat16) == ({"bfloat16"}, "float32")
    with jax.enable_x64(True):
        assert dtypes(jnp.float64) == ({"float64"}, "float64")


def test_an_odd_map_that_averaging_cuts_is_an_error():
    """timm fails there too: floor on the branch, ceil on the shortcut."""
    spec = replace(BOTTLENECK, anti_alias="avg")
    x = jax.ShapeDtypeStruct((1, 60, 64, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"anti_alias 'avg': .* 15x16 map"):
        jax.eval_shape(functools.partial(ResNet(spec).init, train=False), jax.random.key(0), x)
