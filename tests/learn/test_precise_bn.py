"""Precise BatchNorm: statistics of activations in float64, and a run evaluated with them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import stack_blocks
from resnet_jax.resnet import ResNet
from resnet_jax.spec import ResNetSpec
from tests.networks import jit, variables_at_random
from tests.runs import tiny
from train.checkpoint.run_weights import Weights
from train.config import EvalConfig
from train.data.pipeline import train_batches
from train.inference.evaluate import evaluate_run, read_weights
from train.learn.precise_bn import batch_statistics, combined
from train.run.fit import fit
from train.run.parts import Run
from train.run.precise import precise

SPEC = ResNetSpec(depths=(1,), block="basic", width=8, stem="3x3")
BATCHES = 100 + 50 * np.random.default_rng(0).normal(size=(3, 4, 8, 8, 3)).astype(np.float32)


def estimated(model: ResNet, variables: dict, batches: np.ndarray = BATCHES) -> dict:
    """The statistics of all layers over some batches."""
    each = jit(lambda x: batch_statistics(model.apply, variables, x, train=True))
    return combined(each(x) for x in batches)


def test_statistics_of_the_first_layer_are_those_of_all_activations():
    model = ResNet(SPEC)
    variables = variables_at_random(model)
    kernel = variables["params"]["stem_conv1"]["kernel"].astype(np.float64)
    padded = np.pad(BATCHES.reshape(-1, 8, 8, 3), ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = (padded[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    activations = sum(shifted).reshape(-1, 8)
    found = estimated(model, variables)["stem_norm1"]
    np.testing.assert_allclose(found["mean"], activations.mean(0), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found["var"], activations.var(0), rtol=1e-5)
    assert found["mean"].dtype == found["var"].dtype == np.float32


def test_every_layer_normalises_as_in_training():
    """With one batch, evaluation with its statistics is what training computes."""
    model = ResNet(replace(SPEC, preact=True))
    variables = variables_at_random(model)
    found = estimated(model, variables, BATCHES[:1])
    after = {"params": variables["params"], "batch_stats": found}
    trained, _ = jit(
        lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]),
    )(BATCHES[0])
    evaluated = jit(lambda x: model.apply(after, x, train=False))(BATCHES[0])
    for level in trained:
        np.testing.assert_allclose(trained[level], evaluated[level], rtol=1e-3, atol=1e-3)


def test_batches_are_combined_as_if_they_were_one():
    values = 1e4 + np.random.default_rng(0).normal(size=(7, 30, 5))
    trees = [{"norm": {"mean": x.mean(0), "var": x.var(0)}} for x in values]
    found = combined(trees)["norm"]
    np.testing.assert_allclose(found["mean"], values.mean((0, 1)), rtol=1e-7)
    np.testing.assert_allclose(found["var"], values.var((0, 1)), rtol=1e-5)
    with pytest.raises(ValueError, match="need at least one"):
        combined([])


def test_a_loop_over_blocks_and_ghost_batches():
    deep = replace(SPEC, depths=(4,))
    plain, loop = ResNet(deep), ResNet(deep, scan=True)
    variables = variables_at_random(plain)
    expected = estimated(plain, variables, BATCHES[:2])
    found = estimated(loop, stack_blocks(variables), BATCHES[:2])
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # noqa: E731
    jax.tree.map(compare, stack_blocks(expected), found)
    ghost = ResNet(SPEC, norm_group_size=2)
    variables = variables_at_random(ghost)
    first = estimated(ghost, variables)["stem_norm1"]
    jax.tree.map(compare, first, estimated(ResNet(SPEC), variables)["stem_norm1"])


def test_a_convolution_that_is_fused_with_its_norm():
    wide = replace(SPEC, block="bottleneck", stage_widths=(8,))
    fused, apart = (ResNet(wide, jnp.bfloat16, fuse_norm=fuse) for fuse in (True, False))
    variables = variables_at_random(fused)
    near = {"rtol": 0.05, "atol": 0.05}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **near),
        estimated(fused, variables, BATCHES / 100),
        estimated(apart, variables, BATCHES / 100),
    )


def test_a_run_is_evaluated_with_them(tmp_path, capsys):
    evaluation = EvalConfig(every="6st", batch_size=128, crop_fraction=1.0, precise_bn=3)
    config = tiny(duration="6st", eval=evaluation)
    row = fit(config, tmp_path)
    said = capsys.readouterr().out
    assert "; evaluated at the end with BatchNorm statistics of 3 batches\n" in said
    assert "best checkpoint: step 6, with BatchNorm statistics of 3 batches, " in said
    assert row["precise_bn"] == 3 and evaluate_run(config, tmp_path, "best") == row
    averages = replace(config, eval=replace(evaluation, precise_bn=0))
    other = evaluate_run(averages, tmp_path, "best")
    assert other["loss"] != row["loss"] and "precise_bn" not in other
    page = (tmp_path / "report" / "index.html").read_text()
    assert "BatchNorm statistics of 3 training batches" in page

    kept = read_weights(config, tmp_path, "best")
    run = Run(config)
    found = precise(run, kept)
    assert isinstance(found, Weights) and found.variables["params"] is kept.variables["params"]
    images = [
        batch["image"]
        for batch in train_batches(
            *(run.splits.train, config.data, config.augment),
            **{"seed": 0, "batch_size": 32, "start": 3, "stop": 6},
        )
    ]
    labels = jnp.zeros(96, jnp.int32)
    prepared = run.prepare({"image": jnp.concatenate(images), "label": labels}, train=False)
    kernel = kept.variables["params"]["backbone"]["stem_conv1"]["kernel"]
    maps = jax.lax.conv_general_dilated(
        *(prepared["image"], kernel, (1, 1), "SAME"), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    activations = np.asarray(maps, np.float64).reshape(-1, 8)
    stats = found.variables["batch_stats"]["backbone"]["stem_norm1"]
    np.testing.assert_allclose(stats["mean"], activations.mean(0), atol=1e-5)
    np.testing.assert_allclose(stats["var"], activations.var(0), rtol=1e-4)
