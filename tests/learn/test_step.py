"""The training and evaluation step on one device and on eight, and its sums."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import create_model
from train.config import MixConfig, OptimConfig
from train.distributed.mesh import make_mesh, put_batch
from train.learn.optim import ema_decay_at, make_optimizer
from train.learn.prepare import make_prepare
from train.learn.state import TrainState, create_state, init_variables
from train.learn.step import make_eval_step, make_train_step
from train.learn.tasks import Classify

OPTIONS = {"depths": (1, 1), "width": 8}


def parts(devices, *, ema_decay=0.0, optim=None, smoothing=0.0, **model_options):
    mesh = make_mesh(devices)
    model = create_model("resnet8_cifar", 4, **{**OPTIONS, **model_options})
    tx = make_optimizer(optim or OptimConfig(lr=0.1), optax.constant_schedule(0.1))
    prepare = make_prepare(4, (0.5,), (0.25,), MixConfig(label_smoothing=smoothing))
    step = make_train_step(model, Classify(), tx, prepare, mesh, seed=1, ema_decay=ema_decay)
    state = create_state(init_variables(model, 8, seed=3), tx, mesh, ema=ema_decay > 0)
    return model, prepare, mesh, state, step


def host_batch(step: int, size: int = 32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (size, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 4, size).astype(np.int32),
        "mask": np.ones(size, np.float32),
    }


def run(devices, steps: int, **options) -> tuple[TrainState, list[dict[str, float]]]:
    _, _, mesh, state, step = parts(devices, **options)
    sums = []
    for i in range(steps):
        state, s = step(state, put_batch(host_batch(i), mesh))
        sums.append(jax.device_get(s))
    return jax.device_get(state), sums


def assert_close(a: object, b: object, rtol: float) -> None:
    """Every leaf, relative to the largest value in it."""
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        worst = np.abs(x - y).max() / max(np.abs(x).max(), 1e-30)
        assert worst <= rtol, f"{jax.tree_util.keystr(path)}: {worst:.2e}"


def test_eight_devices_train_as_one(devices):
    """In float32, after 20 steps, parameters agree to 1e-5 of the largest in each array."""
    options = {"ema_decay": 0.9, "drop_path": 0.2, "dropout": 0.1}
    one, sums_one = run(devices[:1], 20, **options)
    eight, sums_eight = run(devices, 20, **options)
    assert_close(one.params, eight.params, 1e-5)
    assert_close(one.batch_stats, eight.batch_stats, 1e-5)
    assert_close(one.ema, eight.ema, 1e-5)
    for a, b in zip(sums_one, sums_eight, strict=True):
        assert a["count"] == b["count"] == 32
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_groups_of_a_device_differ_from_the_global_batch(devices):
    whole, _ = run(devices, 3)
    groups, _ = run(devices, 3, norm_group_size=4)
    same_groups, _ = run(devices[:1], 3, norm_group_size=4)
    with pytest.raises(AssertionError):
        assert_close(whole.params, groups.params, 1e-4)
    assert_close(groups.params, same_groups.params, 1e-5)


def test_one_step_is_the_gradient_of_the_mean_loss(devices):
    """Compared with a step written out here: mean cross-entropy, plain SGD, updated statistics."""
    optim = OptimConfig(momentum=0.0, weight_decay=0.0)
    model, prepare, mesh, state, step = parts(devices[:1], optim=optim, smoothing=0.1)
    before = jax.device_get(state)
    batch = host_batch(0)
    after, sums = jax.device_get(step(state, put_batch(batch, mesh)))
    prepared = prepare(batch, train=True)

    @jax.value_and_grad
    def loss(params):
        logits, _ = model.apply(
            {"params": params, "batch_stats": before.batch_stats},
            prepared["image"],
            train=True,
            mutable=["batch_stats"],
        )
        smooth = 0.9 * jax.nn.one_hot(batch["label"], 4) + 0.1 / 4
        return -(smooth * jax.nn.log_softmax(logits)).sum(-1).mean()

    value, grads = jax.jit(loss)(before.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before.params, grads)
    assert_close(expected, after.params, 1e-5)
    assert sums["loss"] / sums["count"] == pytest.approx(float(value), rel=1e-5)
    assert sums["grad_norm"] == pytest.approx(float(optax.tree.norm(grads)), rel=1e-4)
    assert after.step == 1
    moved = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), before.batch_stats, after.batch_stats
    )
    assert all(jax.tree.leaves(moved))


def test_ema_averages_parameters_and_statistics(devices):
    _, _, mesh, state, step = parts(devices[:1], ema_decay=0.99)
    average = jax.device_get(state.ema)
    for i in range(3):
        state, _ = step(state, put_batch(host_batch(i), mesh))
        d = float(ema_decay_at(0.99, jnp.asarray(i)))
        new = jax.device_get(state.variables)
        average = jax.tree.map(lambda e, v, d=d: d * e + (1 - d) * v, average, new)
    assert_close(average, jax.device_get(state.ema), 1e-5)


def test_state_is_donated_and_only_arrays(devices):
    _, _, mesh, state, step = parts(devices)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    step(state, put_batch(host_batch(0), mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_randomness_depends_on_seed_and_step(devices):
    """A second run draws the same dropout masks; another step with the same batch draws others."""
    first, sums = run(devices[:1], 2, drop_path=0.5)
    again, sums_again = run(devices[:1], 2, drop_path=0.5)
    assert_close(first, again, 0)
    assert [s["loss"] for s in sums] == [s["loss"] for s in sums_again]
    _, _, mesh, state, step = parts(devices[:1], drop_path=0.5)
    _, later = step(state.replace(step=state.step + 7), put_batch(host_batch(0), mesh))
    assert float(later["grad_norm"]) != sums[0]["grad_norm"]


def test_bfloat16_keeps_float32_where_it_must(devices):
    _, _, mesh, state, step = parts(devices[:1], dtype=jnp.bfloat16)
    state, sums = step(state, put_batch(host_batch(0), mesh))
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats, sums))} == {
        np.dtype(np.float32)
    }
    _, exact_sums = run(devices[:1], 1)
    assert float(sums["loss"]) != exact_sums[0]["loss"]  # it was computed in bfloat16
    assert float(sums["loss"]) == pytest.approx(exact_sums[0]["loss"], rel=0.05)


def test_evaluation_masks(devices):
    """Masked examples do not count, whatever their pixels; values are returned per example."""
    model, prepare, mesh, state, _ = parts(devices)
    evaluate = make_eval_step(model, Classify(), prepare, mesh)
    batch = host_batch(0)
    batch["mask"][20:] = 0
    sums, examples = jax.device_get(evaluate(state.variables, put_batch(batch, mesh)))
    batch["image"][20:] = 0
    again, _ = jax.device_get(evaluate(state.variables, put_batch(batch, mesh)))
    assert sums == again
    assert sums["count"] == 20
    logits = model.apply(
        jax.device_get(state.variables), prepare(host_batch(0), train=False)["image"], train=False
    )
    label = host_batch(0)["label"]
    assert sums["top1"] == (logits.argmax(-1) == label)[:20].sum()
    np.testing.assert_array_equal(examples["prediction"], logits.argmax(-1))
    losses = -jax.nn.log_softmax(logits)[np.arange(32), label]
    np.testing.assert_allclose(examples["loss"], losses, 1e-4)
    np.testing.assert_allclose(sums["loss"], losses[:20].sum(), 1e-5)
    np.testing.assert_allclose(examples["confidence"], jax.nn.softmax(logits).max(-1), 1e-5)
