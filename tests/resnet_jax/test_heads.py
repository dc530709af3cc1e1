"""The classifier on a backbone with a known map, and `create_model`."""

import functools
import itertools
from dataclasses import fields, replace

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.heads.classifier import Classifier, create_model
from resnet_jax.lenet import LeNet
from resnet_jax.resnet import ResNet
from resnet_jax.spec import LeNetSpec, ResNetSpec
from resnet_jax.zoo import get_spec, list_models

SPEC = ResNetSpec(depths=(1, 1), width=4, block="basic", stem="3x3")


class Maps(nn.Module):
    """A backbone that returns its input as the last map."""

    spec: ResNetSpec
    dtype: jnp.dtype = jnp.float32

    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        return {"c1": 0 * images, "c2": -images, "c3": images.astype(self.dtype)}


def maps(batch: int = 3) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(3, 1, (batch, 8, 8, 5)), jnp.bfloat16).astype(jnp.float32)


def head(classes: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(5, classes)), rng.normal(size=classes)
    return {"kernel": np.float32(kernel), "bias": np.float32(bias)}


def test_logits_of_a_float64_map_are_float64():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(3, 8, 8, 5))
        logits = Classifier(Maps(SPEC, jnp.float64), 7).apply(
            {"params": {"head": head()}}, jnp.asarray(x), train=False
        )
        assert logits.dtype == jnp.float64
        expected = x.mean((1, 2)) @ head()["kernel"].astype(np.float64) + head()["bias"]
        np.testing.assert_allclose(logits, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_logits_are_float32_of_the_last_map_averaged_in_float32(dtype):
    model, x = Classifier(Maps(SPEC, dtype), 7), maps()
    variables = {"params": {"head": head()}}
    mean = np.asarray(x, np.float64).mean((1, 2))
    pooled = model.apply(variables, x, train=False, pre_logits=True)
    assert (pooled.shape, pooled.dtype) == ((3, 5), jnp.float32)
    np.testing.assert_allclose(pooled, mean, rtol=1e-6)
    logits = model.apply(variables, x, train=False)
    assert (logits.shape, logits.dtype) == ((3, 7), jnp.float32)
    np.testing.assert_allclose(logits, mean @ head()["kernel"] + head()["bias"], rtol=1e-5)


def test_dropout_acts_on_the_pooled_features_in_training_only():
    model, x = Classifier(Maps(replace(SPEC, dropout=0.75)), 5), maps(400)
    variables = {"params": {"head": {"kernel": np.eye(5), "bias": np.zeros(5)}}}
    pooled = np.asarray(model.apply(variables, x, train=False, pre_logits=True))
    np.testing.assert_allclose(model.apply(variables, x, train=False), pooled, rtol=1e-6)

    def train(seed, **options):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(model.apply(variables, x, train=True, rngs=rngs, **options))

    y = train(0)
    kept = y != 0
    np.testing.assert_allclose(y[kept], 4 * pooled[kept], rtol=1e-6)
    assert abs(kept.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / kept.size)
    assert (train(1) != y).any()
    np.testing.assert_array_equal(train(0, pre_logits=True), pooled)


@pytest.mark.parametrize(
    "option", ["dropout", "drop_path", "drop_block", "block_dropout", "drop_connect"]
)
def test_noise_needs_a_key_in_training_only(option):
    model = create_model("resnet8_cifar", 3, depths=(1, 1), width=4, **{option: 0.5})
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)

    def apply(train, **rngs):
        call = functools.partial(model.apply, train=train, mutable=["batch_stats"], rngs=rngs)
        return jax.eval_shape(call, variables, x)[0]

    assert apply(False).shape == apply(True, dropout=jax.random.key(0)).shape == (2, 3)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        apply(True)


def test_without_noise_training_needs_no_key():
    model = create_model("resnet8_cifar", 3, depths=(1,), width=4)
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=True), jax.random.key(0), x)
    call = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    assert jax.eval_shape(call, variables, x)[0].shape == (2, 3)


def test_bfloat16_compute_with_float32_variables_and_logits():
    model = create_model("resnet50", 10, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.bfloat16)
    for train in (False, True):
        init = functools.partial(model.init_with_output, train=train)
        logits, variables = jax.eval_shape(init, jax.random.key(0), x)
        assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    init = functools.partial(model.init_with_output, train=False, pre_logits=True)
    pooled, _ = jax.eval_shape(init, jax.random.key(0), x)
    assert (pooled.shape, pooled.dtype) == ((2, 2048), jnp.float32)


def test_bfloat16_agrees_with_float32_to_its_precision():
    options = {"depths": (1, 1), "width": 8, "zero_gamma": False}
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    full, half = (
        create_model("resnet8_cifar", 10, dtype=dtype, **options)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    variables = jax.jit(functools.partial(full.init, train=False))(jax.random.key(0), x)
    pooled, rounded = (
        np.asarray(jax.jit(functools.partial(m.apply, train=False, pre_logits=True))(variables, x))
        for m in (full, half)
    )
    error = np.abs(rounded - pooled).max() / np.abs(pooled).max()
    assert 1e-5 < error < 2e-2


def test_names_of_the_variables():
    model = create_model("resnet18", 10, depths=(1, 2))
    x = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    assert set(variables) == {"params", "batch_stats"}
    first = {"conv1", "norm1", "conv2", "norm2"}
    assert jax.tree.map(lambda leaf: leaf.shape, variables["params"]["head"]) == {
        "kernel": (128, 10),
        "bias": (10,),
    }
    backbone = variables["params"]["backbone"]
    assert {name: set(stage) for name, stage in backbone.items()} == {
        "stem_conv1": {"kernel"},
        "stem_norm1": {"scale", "bias"},
        "stage1": {"block1"},
        "stage2": {"block1", "block2"},
    }
    assert set(backbone["stage1"]["block1"]) == first
    assert set(backbone["stage2"]["block1"]) == first | {"shortcut_conv", "shortcut_norm"}
    assert set(variables["params"]) == {"backbone", "head"}
    stats = variables["batch_stats"]["backbone"]
    assert set(stats["stage2"]["block1"]) == {"norm1", "norm2", "shortcut_norm"}
    assert set(stats["stem_norm1"]) == {"mean", "var"}


def test_the_head_starts_small_and_at_no_bias():
    model = create_model("resnet8_cifar", 100, depths=(1,), width=64, kernel_init="zeros")
    init = jax.jit(functools.partial(model.init, train=False))
    head = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]["head"]
    assert not np.asarray(head["bias"]).any()
    # Uniform in +-1/sqrt(64), whatever the convolutions start with.
    assert 0.99 / 8 < np.abs(head["kernel"]).max() <= 1 / 8
    assert float(head["kernel"].std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.03)


def test_create_model_hands_every_option_on():
    model = create_model(
        "resnet50d",
        10,
        dtype=jnp.bfloat16,
        norm_group_size=4,
        freeze_norm=True,
        scan=True,
        fuse_norm=False,
        drop_path=0.1,
        width=32,
    )
    spec = get_spec("resnet50d", drop_path=0.1, width=32)
    options = {"norm_group_size": 4, "freeze_norm": True, "scan": True, "fuse_norm": False}
    assert model == Classifier(ResNet(spec, jnp.bfloat16, **options), 10)
    own = {"spec", "dtype", "parent", "name"}
    assert {f.name for f in fields(ResNet)} - own == set(options)  # a new one would be missed
    default = create_model("resnet18")
    assert default == Classifier(ResNet(get_spec("resnet18")), 1000)


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError) as error:
        create_model("resnet50e")
    listed = str(error.value).split("did you mean ")[1].split("?")[0].split(", ")
    assert {"resnet50", "resnet50c", "resnet50d"} < set(listed) <= set(list_models())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "5x5"}, "stem '5x5': choose from '7x7', 'deep', 'tiered', '3x3'"),
        ({"stride_at": "2x2"}, "stride_at '2x2': choose from '1x1', '3x3'"),
        ({"dropout": 1.5}, r"dropout 1.5: must be in \[0, 1\)"),
        ({"num_classes": 0}, "num_classes 0: must be at least 1"),
        (
            {"stochastic_depth": 0.1},
            "unknown option 'stochastic_depth' .* drop_path, drop_block, .*, drop_connect$",
        ),
        (
            {"num_class": 10},
            r"unknown option 'num_class' of model 'resnet50': did you mean num_classes\? choose "
            "from num_classes, dtype, norm_group_size, freeze_norm, scan, fuse_norm, depths, ",
        ),
        ({"drop_paths": 0.1}, r"unknown option 'drop_paths' .*: did you mean drop_path\b.*\? "),
        ({"pretrained": True}, r"unknown option 'pretrained' .*load_pretrained\(name, tag\)"),
        (
            {"stage_widths": (64, 128)},
            r"stage_widths \(64, 128\): needs one value for each of 4 stages",
        ),
        ({"norm": "group", "norm_groups": 48}, "norm_groups 48: does not divide the 64 channels"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        create_model("resnet50", **options)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("resnet50_gn", {}),
        ("resnetv2_50x1_bit", {}),
        ("lenet5", {}),
        ("resnet50", {"norm": "group"}),
    ],
)
def test_options_of_batch_norm_need_one(name, changes):
    for option, given in (
        ({"freeze_norm": True}, "freeze_norm"),
        ({"norm_group_size": 8}, "norm_group_size 8"),
    ):
        with pytest.raises(ValueError, match=f"^{given}: {name} has no BatchNorm$"):
            create_model(name, **changes, **option)
    create_model(name, **changes, freeze_norm=False, norm_group_size=None)
    assert create_model("resnet50_gn", norm="batch", freeze_norm=True).backbone.freeze_norm


def test_lenet_by_its_name():
    model = create_model("lenet5", 7, dtype=jnp.bfloat16, activation="relu", dropout=0.5)
    assert model == Classifier(LeNet(LeNetSpec(activation="relu", dropout=0.5), jnp.bfloat16), 7)


def test_drop_connect_masks_the_head_in_training_only():
    model, x = Classifier(Maps(replace(SPEC, drop_connect=0.75)), 7), maps()
    variables = {"params": {"head": head()}}
    plain = Classifier(Maps(SPEC), 7).apply(variables, x, train=True)
    np.testing.assert_array_equal(model.apply(variables, x, train=False), plain)
    rngs = {"dropout": jax.random.key(0)}
    y = model.apply(variables, x, train=True, rngs=rngs)
    # One mask for the batch: one kernel gives all of its logits.
    pooled = model.apply(variables, x, train=True, rngs=rngs, pre_logits=True)
    differences = np.asarray(pooled[1:] - pooled[:1]), np.asarray(y[1:] - y[:1])
    masks = np.array(list(itertools.product((0, 4), repeat=5)))
    for j in range(7):
        explained = differences[0] @ (masks * head()["kernel"][:, j]).T  # [differences, masks]
        assert np.isclose(explained, differences[1][:, j, None], atol=1e-4).all(0).any()
    assert np.abs(y - plain).max() > 0.1


def test_a_norm_group_size_below_one_is_refused():
    with pytest.raises(ValueError, match="norm_group_size 0"):
        create_model("resnet50", norm_group_size=0)
