"""The regularisers inside a network: where they act, when they act, and when they do not."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.heads.classifier import Classifier
from resnet_jax.layers import DropPath, pad_shortcut
from resnet_jax.resnet import ResNet
from resnet_jax.spec import ResNetSpec
from tests.networks import images, run, shapes, variables_at_random

BASIC = ResNetSpec(depths=(1, 1, 1), width=4, block="basic", stem="3x3")
BOTTLENECK = replace(BASIC, block="bottleneck")
CIFAR = replace(BASIC, shortcut="A")


def drop_rates(spec: ResNetSpec) -> list[float]:
    rates = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, DropPath) and context.method_name == "__call__":
            rates.append(context.module.rate)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(ResNet(spec))
    return rates


def test_drop_path_grows_linearly_to_its_value_at_the_last_block():
    spec = replace(BASIC, depths=(2, 1, 3), drop_path=0.5)
    assert drop_rates(spec) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert drop_rates(replace(spec, drop_path=0)) == [0] * 6
    assert drop_rates(replace(spec, depths=(1,))) == [0]
    assert drop_rates(replace(spec, shortcut="none", drop_path=0)) == []


def test_drop_path_drops_the_branch_and_keeps_the_shortcut():
    """Of v2 blocks, where no relu hides the sum: x or x + branch / (1 - rate), by example."""
    model = ResNet(replace(CIFAR, depths=(1, 1, 1), drop_path=0.5, preact=True))
    whole = ResNet(replace(model.spec, drop_path=0))
    variables, x = variables_at_random(model), images(8, batch=64)
    full, _ = run(whole, variables, x, train=True)
    y, _ = run(model, variables, x, train=True, dropout=jax.random.key(0))
    np.testing.assert_allclose(y["c2"], full["c2"], atol=1e-6)  # the first block's rate is 0
    short = np.asarray(pad_shortcut(jnp.asarray(full["c2"]), 8, 2))
    dropped = np.isclose(y["c3"], short, atol=1e-5).all((1, 2, 3))
    assert 0.05 < dropped.mean() < 0.5  # of 64, with a rate of 0.25
    kept = short + (full["c3"] - short) / 0.75
    np.testing.assert_allclose(y["c3"][~dropped], kept[~dropped], atol=1e-4)
    evaluated, _ = run(model, variables, x, train=False)
    expected, _ = run(whole, variables, x, train=False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, expected)


NOISE = {
    "drop_path": {"drop_path": 0.5},
    "drop_block": {"drop_block": 0.4, "drop_block_size": 2},
    "block_dropout": {"block_dropout": 0.3},
    "dropout": {"dropout": 0.3},
    "drop_connect": {"drop_connect": 0.3},
}


def logits(spec: ResNetSpec, train: bool, seed: int | None = None, **options: bool) -> np.ndarray:
    model = Classifier(ResNet(spec), 5)
    rngs = {} if seed is None else {"dropout": jax.random.key(seed)}
    y, _ = model.apply(
        variables_at_random(model),
        images(16),
        train=train,
        rngs=rngs,
        mutable=["batch_stats"],
        **options,
    )
    return np.asarray(y)


@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.parametrize("name", NOISE)
def test_noise_acts_in_training_only_and_follows_its_key(name, preact):
    whole = replace(BASIC, preact=preact)
    spec = replace(whole, **NOISE[name])
    np.testing.assert_array_equal(logits(spec, False), logits(whole, False))  # and needs no key
    trained, again, other = (logits(spec, True, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(trained, again)
    clean = logits(whole, True)
    assert np.isfinite(trained).all()
    assert np.abs(trained - clean).max() > 1e-2 and np.abs(trained - other).max() > 1e-2
    # Dropout and DropConnect are in the classifier; after them there is no noise.
    pooled = [logits(s, True, 0, pre_logits=True) for s in (spec, whole)]
    assert np.array_equal(*pooled) == (name in ("dropout", "drop_connect"))


@pytest.mark.parametrize("preact", [False, True])
def test_fractional_pooling_is_noise_too(preact):
    spec = replace(BASIC, preact=preact, stem_pool="fractional")
    np.testing.assert_array_equal(logits(spec, False), logits(spec, False))
    trained, again, other = (logits(spec, True, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(trained, again)
    assert np.abs(trained - other).max() > 1e-2
    pyramid, _ = run(ResNet(spec), variables_at_random(ResNet(spec)), images(24), train=False)
    sides = [level.shape[1] for level in pyramid.values()]
    assert sides == [24, 16, 8, 4]  # floor(24 / sqrt 2)


@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.parametrize("spec", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def test_drop_block_leaves_the_early_stages_alone(spec, preact):
    whole = replace(spec, preact=preact)
    model = ResNet(replace(whole, drop_block=0.4, drop_block_size=2))
    variables, x = variables_at_random(model), images(16)
    expected, _ = run(ResNet(whole), variables, x, train=True)
    pyramid, _ = run(model, variables, x, train=True, dropout=jax.random.key(0))
    same = {level: np.array_equal(values, expected[level]) for level, values in pyramid.items()}
    assert same == {"c1": True, "c2": True, "c3": False, "c4": False}


def captured(spec: ResNetSpec, *names: str) -> dict[str, dict[str, np.ndarray]]:
    """What these layers put out in training, by their block."""
    model = ResNet(spec)
    _, kept = model.apply(
        variables_at_random(model),
        images(16),
        train=True,
        capture_intermediates=lambda module, _: module.name in names,
        mutable=["intermediates", "batch_stats"],
        rngs={"dropout": jax.random.key(0)},
    )
    stages = kept["intermediates"]
    return {
        stage: {name: np.asarray(stages[stage]["block1"][name]["__call__"][0]) for name in names}
        for stage in ("stage1", "stage2", "stage3")
    }


# The norm behind a branch's 3x3 convolution, which is also the one before its last convolution
NORMS = [(BASIC, False, "norm1"), (BASIC, True, "norm2")]
NORMS += [(BOTTLENECK, False, "norm2"), (BOTTLENECK, True, "norm3")]


@pytest.mark.parametrize(("spec", "preact", "norm"), NORMS)
def test_drop_block_is_between_norm_and_activation(spec, preact, norm):
    spec = replace(spec, preact=preact, drop_block=0.4, drop_block_size=2)
    for stage, seen in captured(spec, norm, "drop_block").items():
        before, after = seen[norm], seen["drop_block"]
        dropped = ~after.any(-1)
        assert (before < 0).any() and dropped.any() == (stage != "stage1")
        expected = np.where(dropped[..., None], 0, before / (1 - dropped.mean()))
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("spec", "preact", "norm"), NORMS)
def test_block_dropout_is_before_the_last_convolution(spec, preact, norm):
    spec = replace(spec, preact=preact, block_dropout=0.3, activation="sigmoid")  # never 0
    for seen in captured(spec, norm, "dropout").values():
        activated, after = 1 / (1 + np.exp(-seen[norm])), seen["dropout"]
        dropped = after == 0
        assert abs(dropped.mean() - 0.3) < 5 * (0.3 * 0.7 / dropped.size) ** 0.5
        expected = np.where(dropped, 0, activated / 0.7)
        np.testing.assert_allclose(after, expected, rtol=1e-5)
