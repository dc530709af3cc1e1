"""The shardings of arrays over devices, which do not change the results."""

from dataclasses import dataclass
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec

from resnet_jax import create_model
from resnet_jax.norm import BatchNorm
from tests.learn.test_step import OPTIONS, assert_close, host_batch
from train.config import ConfigError, MixConfig, OptimConfig
from train.distributed.mesh import fsdp_sharding, make_mesh, put_batch
from train.learn.optim import make_optimizer
from train.learn.prepare import make_prepare
from train.learn.state import TrainState, create_state, init_variables, state_sharding
from train.learn.step import make_eval_step, make_train_step
from train.learn.tasks import Classify


def parts(devices, *, fsdp=1, shard_params=False, **model_options):
    mesh = make_mesh(devices, fsdp=fsdp)
    model = create_model("resnet8_cifar", 4, **{**OPTIONS, **model_options})
    tx = make_optimizer(OptimConfig(lr=0.1), optax.constant_schedule(0.1))
    prepare = make_prepare(4, (0.5,), (0.25,), MixConfig())
    variables = init_variables(model, 8, seed=3)
    state = create_state(variables, tx, mesh, ema=True, shard_params=shard_params)
    sharding = state_sharding(state, mesh, params=shard_params)
    step = make_train_step(
        model, Classify(), tx, prepare, mesh, seed=1, ema_decay=0.9, sharding=sharding
    )
    return SimpleNamespace(mesh=mesh, model=model, prepare=prepare, state=state, step=step)


def trained(devices, steps=5, **options) -> TrainState:
    p = parts(devices, **options)
    for i in range(steps):
        p.state, _ = p.step(p.state, put_batch(host_batch(i), p.mesh))
    return p.state


def test_devices_stand_in_order_of_their_processes():
    """Process p reads the p-th part of a batch, so its devices must hold the p-th part."""

    @dataclass(frozen=True)
    class Device:
        process_index: int
        id: int

    devices = [Device(i % 2, i) for i in range(8)]
    mesh = make_mesh(devices, fsdp=2)
    assert mesh.axis_names == ("data", "fsdp")
    assert [[d.id for d in row] for row in mesh.devices] == [[0, 2], [4, 6], [1, 3], [5, 7]]


def test_fsdp_divides_the_devices(devices):
    with pytest.raises(ConfigError, match=r"mesh.fsdp 3: does not divide 8 devices.* 1, 2, 4, 8"):
        make_mesh(devices, fsdp=3)
    with pytest.raises(ConfigError, match=r"mesh.fsdp 2: there is 1 device; .*_count=2 simulates"):
        make_mesh(devices[:1], fsdp=2)


def test_arrays_are_cut_along_their_longest_axis_that_divides(devices):
    mesh = make_mesh(devices, fsdp=4)
    shapes = {"kernel": (3, 3, 8, 16), "first": (3, 3, 3, 6), "bias": (12,), "count": ()}
    cut = fsdp_sharding({name: jnp.zeros(shape) for name, shape in shapes.items()}, mesh)
    assert {name: where.spec for name, where in cut.items()} == {
        "kernel": PartitionSpec(None, None, None, "fsdp"),
        "first": PartitionSpec(),
        "bias": PartitionSpec("fsdp"),
        "count": PartitionSpec(),
    }


def bytes_on(device, tree) -> int:
    shards = [s for x in jax.tree.leaves(tree) for s in x.addressable_shards]
    return sum(s.data.nbytes for s in shards if s.device == device)


@pytest.mark.parametrize("shard_params", [False, True])
def test_a_cut_state_is_smaller_and_trains_the_same(devices, shard_params):
    """Optimiser state and EMA (and parameters) a quarter on each device, before and after steps."""
    whole = trained(devices)
    cut = trained(devices, fsdp=4, shard_params=shard_params)
    for name in ("params", "batch_stats", "opt_state", "ema"):
        assert_close(getattr(whole, name), getattr(cut, name), 1e-5)
    born = parts(devices, fsdp=4, shard_params=shard_params).state
    for state in (born, cut):
        for name, is_cut in (("opt_state", True), ("ema", True), ("params", shard_params)):
            all_of_it = sum(x.nbytes for x in jax.tree.leaves(getattr(state, name)))
            share = bytes_on(devices[0], getattr(state, name)) / all_of_it
            assert share < 0.27 if is_cut else share == 1, (name, share)
        assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state.batch_stats))


def test_a_cut_state_is_evaluated(devices):
    whole = parts(devices[:1])
    cut = parts(devices, fsdp=2, shard_params=True)
    sums = []
    for p in (whole, cut):
        evaluate = make_eval_step(p.model, Classify(), p.prepare, p.mesh)
        sums.append(jax.device_get(evaluate(p.state.ema, put_batch(host_batch(0), p.mesh))[0]))
    assert sums[0]["top1"] == sums[1]["top1"]
    assert sums[0]["loss"] == pytest.approx(sums[1]["loss"], rel=1e-5)


def pmapped(model, tx, prepare, devices, state, batches) -> TrainState:
    """The classical data-parallel step: gradients and statistics are averaged over devices."""

    def step(state: TrainState, batch) -> TrainState:
        batch = prepare(batch, train=True)

        def loss(params):
            logits, new = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch["image"],
                train=True,
                mutable=["batch_stats"],
            )
            log_p = jax.nn.log_softmax(logits)
            return -(batch["target"] * log_p).sum(-1).mean(), new["batch_stats"]

        grads, stats = jax.grad(loss, has_aux=True)(state.params)
        grads, stats = jax.lax.pmean((grads, stats), "devices")
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, stats, opt_state, {})

    mapped = jax.pmap(step, axis_name="devices", devices=devices)
    state = jax.tree.map(lambda x: jnp.stack([x] * len(devices)), state)
    for batch in batches:
        split = {k: v.reshape(len(devices), -1, *v.shape[1:]) for k, v in batch.items()}
        state = mapped(state, split)
    return jax.tree.map(lambda x: x[0], state)


class Small(nn.Module):
    """One block, with our BatchNorm or with linen's over the devices of a pmap."""

    linen: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(8, (3, 3), use_bias=False, name="conv")(x)
        if self.linen:
            options = {"momentum": 0.9, "axis_name": "devices", "name": "norm"}
            x = nn.BatchNorm(use_running_average=not train, **options)(x)
        else:
            x = BatchNorm(name="norm")(x, train=train)
        return nn.Dense(4, name="head")(nn.relu(x).mean((1, 2)))


@pytest.mark.parametrize("statistics", ["device", "global"])
def test_the_step_is_a_pmap_step(devices, statistics):
    """Eight devices, five steps, momentum included: to 1e-6."""
    if statistics == "device":
        model = reference = create_model("resnet8_cifar", 4, norm_group_size=4, **OPTIONS)
    else:
        model, reference = Small(), Small(linen=True)
    mesh = make_mesh(devices)
    tx = make_optimizer(OptimConfig(lr=0.1), optax.constant_schedule(0.1))
    prepare = make_prepare(4, (0.5,), (0.25,), MixConfig())
    step = make_train_step(model, Classify(), tx, prepare, mesh, seed=1, ema_decay=0.0)
    state = create_state(init_variables(model, 8, seed=3), tx, mesh, ema=False)
    batches = [host_batch(i) for i in range(5)]
    expected = pmapped(reference, tx, prepare, devices, jax.device_get(state), batches)
    for batch in batches:
        state, _ = step(state, put_batch(batch, mesh))
    assert_close(expected.params, state.params, 1e-6)
    assert_close(expected.opt_state, state.opt_state, 1e-6)
    means = [
        {path: x for path, x in flatten_dict(s.batch_stats).items() if path[-1] == "mean"}
        for s in (expected, state)
    ]
    assert_close(*means, 1e-6)
    if statistics == "device":  # linen keeps the biased variance
        assert_close(expected.batch_stats, state.batch_stats, 1e-6)
