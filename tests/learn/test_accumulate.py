"""Gradients over micro-batches: against the whole batch, a loop written out, and other meshes."""

import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.norm import BatchNorm, GroupNorm
from tests.learn.test_step import assert_close, host_batch
from tests.networks import jit
from train.config import ConfigError, MixConfig, OptimConfig, RunConfig
from train.distributed.mesh import batch_sharding, make_mesh, put_batch, replicated_sharding
from train.learn.gradients import accumulate
from train.learn.model import check_batches, resolve_norm_groups
from train.learn.prepare import make_prepare
from train.learn.state import init_variables
from train.learn.step import make_gradient
from train.learn.tasks import Classify

KEY = jax.random.key(7)
BATCH = host_batch(0)


class Small(nn.Module):
    """One convolution and one norm: it compiles fast."""

    norm: str
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm: Any = BatchNorm() if self.norm == "batch" else GroupNorm(groups=4)
        x = nn.relu(norm(nn.Conv(8, (3, 3), strides=2, use_bias=False)(x), train=train))
        x = nn.Dropout(self.dropout, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(4)(x)


@functools.cache
def network(norm: str, dropout: float = 0.0):
    model = Small(norm, dropout)
    return model, init_variables(model, 8, seed=3)


def compiled(norm: str, count: int, devices, mix: MixConfig | None = None, dropout: float = 0.0):
    """The gradient, compiled over a mesh, its arguments, and the program."""
    model, variables = network(norm, dropout)
    mesh = make_mesh(devices)
    prepare = make_prepare(4, (0.5,), (0.25,), mix or MixConfig())
    gradient = make_gradient(model, Classify(), prepare, jnp.zeros((), jnp.int32))
    if count > 1:
        gradient = accumulate(gradient, count, mesh)
    same, split = replicated_sharding(mesh), batch_sharding(mesh)
    shardings = {"in_shardings": (same, same, split, same), "out_shardings": same}
    arguments = variables["params"], variables["batch_stats"], put_batch(BATCH, mesh), KEY
    return jit(gradient, **shardings).lower(*arguments).compile(), arguments


def computed(*args, **kwargs):
    program, arguments = compiled(*args, **kwargs)
    return jax.device_get(program(*arguments))


@pytest.mark.parametrize("count", [2, 8])
def test_without_batch_norm_it_is_the_gradient_of_the_whole_batch(devices, count):
    grads, (_, sums) = computed("group", 1, devices[:1])
    found, (_, found_sums) = computed("group", count, devices[:1])
    assert_close(grads, found, 1e-5)
    assert found_sums["count"] == 32
    assert_close(sums, found_sums, 1e-5)


def test_examples_count_equally_where_some_are_masked(devices, monkeypatch):
    """With all masked examples in one micro-batch, means of unequal size are averaged."""
    mask = np.ones(32, np.float32)
    mask[0:20:2] = 0
    monkeypatch.setitem(BATCH, "mask", mask)
    grads, (_, sums) = computed("group", 1, devices[:1])
    found, (_, found_sums) = computed("group", 2, devices[:1])
    assert sums["count"] == found_sums["count"] == 22
    assert_close(grads, found, 1e-5)


def test_with_batch_norm_it_is_a_loop_over_micro_batches(devices):
    """Written out: statistics of each micro-batch, running statistics updated one by one."""
    found, (found_stats, _) = computed("batch", 4, devices[:1])
    model, variables = network("batch")
    params, stats = variables["params"], variables["batch_stats"]

    @jit
    def one(params, stats, image, label):
        def loss(params):
            logits, new = model.apply(
                {"params": params, "batch_stats": stats}, image, train=True, mutable=["batch_stats"]
            )
            log = jax.nn.log_softmax(logits)
            return -jnp.take_along_axis(log, label[:, None], 1).mean(), new["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    image = ((BATCH["image"] / 255 - 0.5) / 0.25).astype(np.float32)
    grads = []
    for i in range(4):
        grad, stats = one(params, stats, image[i::4], BATCH["label"][i::4])
        grads.append(grad)
    assert_close(jax.tree.map(lambda *g: sum(g) / 4, *grads), found, 1e-5)
    assert_close(stats, found_stats, 1e-5)
    whole, _ = computed("batch", 1, devices[:1])
    with pytest.raises(AssertionError):
        assert_close(whole, found, 1e-2)


def test_the_mesh_changes_nothing_and_moves_no_example(devices):
    mix = MixConfig(erasing=0.5)
    one = computed("batch", 4, devices[:1], mix, 0.5)
    program, arguments = compiled("batch", 4, devices, mix, 0.5)
    assert_close(one, jax.device_get(program(*arguments)), 1e-5)
    plain, _ = compiled("batch", 4, devices)
    moves = re.findall(r"(?:all-gather|all-to-all|collective-permute)[^ ]*\(", plain.as_text())
    assert moves == [] and "all-reduce" in plain.as_text()


def test_micro_batches_draw_apart(devices):
    """The same examples in both micro-batches: their dropout masks differ."""
    batch = {key: np.repeat(value[:16], 2, axis=0) for key, value in BATCH.items()}
    model, variables = network("group", 0.5)
    gradient = make_gradient(
        model, Classify(), make_prepare(4, (0.5,), (0.25,), MixConfig()), jnp.zeros((), jnp.int32)
    )
    losses = []

    def noted(params, stats, part, key):
        grads, (stats, sums) = gradient(params, stats, part, key)
        jax.debug.callback(lambda loss: losses.append(float(loss)), sums["loss"])
        return grads, (stats, sums)

    mesh = make_mesh(devices[:1])
    jit(accumulate(noted, 2, mesh))(
        variables["params"], variables["batch_stats"], put_batch(batch, mesh), KEY
    )
    jax.effects_barrier()
    assert len(losses) == 2 and losses[0] != losses[1]


def config(accumulate: int, **changes: object) -> RunConfig:
    return RunConfig(batch_size=32, optim=OptimConfig(accumulate=accumulate), **changes)


def test_every_device_needs_a_share_of_every_micro_batch(devices):
    mesh = make_mesh(devices)
    check_batches(config(4), mesh)
    message = "optim.accumulate 8: a device has 4 examples of batch_size 32, which 8 does not divi"
    with pytest.raises(ConfigError, match=message):
        check_batches(config(8), mesh)


def test_groups_of_examples_lie_in_a_micro_batch(devices):
    found = resolve_norm_groups(config(2, norm_group_size="device"), make_mesh(devices))
    assert found.norm_group_size == 2
    with pytest.raises(ConfigError, match=r"divides batch_size 32 / optim.accumulate 4, dev"):
        config(4, norm_group_size=16)
    with pytest.raises(ConfigError, match="accumulate 32: mixup and CutMix need a batch of at l"):
        config(32, mix=MixConfig(mixup=0.2))


def test_memory_does_not_grow_with_the_number_of_micro_batches(devices):
    """Four times the batch in four times the micro-batches: only the images themselves are more."""
    model, variables = network("batch")
    mesh = make_mesh(devices[:1])
    prepare = make_prepare(4, (0.5,), (0.25,), MixConfig())
    gradient = make_gradient(model, Classify(), prepare, jnp.zeros((), jnp.int32))

    def temporary(count: int, examples: int) -> int:
        batch = put_batch(host_batch(0, examples), mesh)
        whole = accumulate(gradient, count, mesh) if count > 1 else gradient
        arguments = variables["params"], variables["batch_stats"], batch, KEY
        found = jit(whole).lower(*arguments).compile().memory_analysis()
        return found.temp_size_in_bytes - batch["image"].nbytes * (count > 1)

    assert temporary(8, 512) < 1.1 * temporary(2, 128) < 0.6 * temporary(1, 256)
