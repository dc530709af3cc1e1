"""Steps that are skipped because they are not finite, and what the rest of the run is then."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.norm import BatchNorm
from train.config import MixConfig, OptimConfig
from train.distributed.mesh import make_mesh, put_batch
from train.learn.optim import make_optimizer
from train.learn.prepare import make_prepare
from train.learn.state import TrainState, create_state, init_variables
from train.learn.step import make_train_step
from train.learn.tasks import Classify

BAD = 255  # of a whole image: its pixels become infinite


class Tiny(nn.Module):
    """A norm and a dense layer: compiled in a second."""

    @nn.compact
    def __call__(self, x, *, train):
        x = BatchNorm(name="norm")(x, train=train)
        return nn.Dense(4, name="head")(x.reshape(x.shape[0], -1))


def prepare(batch, *, train, **draws):
    batch = make_prepare(4, (0.5,), (0.25,), MixConfig())(batch, train=train, **draws)
    image = batch["image"]
    bad = (image == image.max()).all((1, 2, 3), keepdims=True) & (image.max() > 1.9)
    return {**batch, "image": jnp.where(bad, jnp.inf, image)}


def batches(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 200, (8, 4, 4, 3), np.uint8),
            "label": rng.integers(0, 4, 8).astype(np.int32),
            "mask": np.ones(8, np.float32),
        }
        for _ in range(count)
    ]


def bad_batch() -> dict[str, np.ndarray]:
    batch = batches(1)[0]
    batch["image"][3] = BAD
    return batch


def trained(optim: OptimConfig, sequence, schedule=None, tx=None) -> tuple[TrainState, list[bool]]:
    """The state behind a sequence of batches, and which steps were finite."""
    mesh = make_mesh(jax.devices()[:1])
    tx = tx or make_optimizer(optim, schedule or optax.constant_schedule(0.1))
    options = {"seed": 0, "ema_decay": 0.9, "skip_nonfinite": True}
    step = make_train_step(Tiny(), Classify(), tx, prepare, mesh, **options)
    state = create_state(init_variables(Tiny(), 4, 0), tx, mesh, ema=True)
    finite = []
    for batch in sequence:
        state, sums = step(state, put_batch(batch, mesh))
        finite.append(bool(np.isfinite(sums["loss"]) and np.isfinite(sums["grad_norm"])))
    return jax.device_get(state), finite


def interrupted(count: int):
    """`count` batches, with three bad ones among them."""
    good = batches(count)
    return [bad_batch(), *good[:2], bad_batch(), bad_batch(), *good[2:]]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimiser_does_not_see_a_skipped_step(name):
    """Its state is that of the finite steps alone, to the bit: Adam's bias correction too."""
    optim = OptimConfig(name=name, weight_decay=0.1)
    whole, finite = trained(optim, batches(5))
    assert all(finite)
    skipped, finite = trained(optim, interrupted(5))
    assert finite == [False, True, True, False, False, True, True, True]
    assert (whole.step, skipped.step) == (5, 8)
    for field in ("params", "batch_stats", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(whole, field), getattr(skipped, field))
    counters = [x for x in jax.tree.leaves(skipped.opt_state) if x.dtype == np.int32]
    assert counters and {int(x) for x in counters} == {5}


def test_the_learning_rate_goes_by_the_step_of_the_run():
    """Plain SGD on the same gradients: each finite step moves by the rate of its own number."""
    optim = OptimConfig(momentum=0.0, weight_decay=0.0)
    rates = jnp.asarray([7.0, 0.0, 0.0, 7.0, 7.0, 0.5, 0.0, 0.0])
    rate = lambda step: rates[step]  # noqa: E731
    sequence = interrupted(5)
    state, _ = trained(optim, sequence, rate)
    # Only step 5 moves anything: the third good batch, at the first parameters
    alone, _ = trained(optim, [sequence[5]], optax.constant_schedule(0.5))
    jax.tree.map(np.testing.assert_array_equal, state.params, alone.params)


def test_another_optimiser_may_not_know_of_steps():
    """A schedule inside of it counts the steps that were not skipped."""
    rate = lambda step: jnp.where(step == 2, 0.5, 0.0)  # noqa: E731
    state, _ = trained(OptimConfig(), interrupted(5), tx=optax.sgd(rate))
    alone, _ = trained(OptimConfig(), [batches(5)[2]], tx=optax.sgd(0.5))
    jax.tree.map(np.testing.assert_array_equal, state.params, alone.params)
