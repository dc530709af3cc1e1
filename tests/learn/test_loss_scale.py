"""float16: the loss scale, skipped steps, and gradients that bare float16 would lose."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from tests.learn.test_step import assert_close, host_batch
from tests.run.test_skip import Tiny, bad_batch
from tests.run.test_skip import prepare as prepare_bad
from train.config import MixConfig, OptimConfig
from train.distributed.mesh import make_mesh, put_batch
from train.learn.loss_scale import first_scale, next_scale
from train.learn.optim import make_optimizer
from train.learn.prepare import make_prepare
from train.learn.state import TrainState, create_state, init_variables
from train.learn.step import make_train_step
from train.learn.tasks import Classify
from train.run.metrics import NonFinite, Window, means


def sequence(finite: str, period: int = 3, scale: float = 8.0) -> list[float]:
    """The scale after each step; "x": a step that is not finite."""
    state, found = first_scale(scale), []
    for step in finite:
        state = next_scale(state, jnp.bool(step != "x"), period)
        found.append(float(state["scale"]))
    return found


def test_it_halves_on_overflow_and_doubles_after_enough_good_steps():
    assert sequence("ooo") == [8, 8, 16]
    assert sequence("oxooo") == [8, 4, 4, 4, 8]  # an overflow starts the count again
    assert sequence("xxxxx") == [4, 2, 1, 1, 1]
    assert sequence("ooo", scale=2.0**24) == [2.0**24] * 3


@functools.cache
def parts():
    mesh = make_mesh(jax.devices()[:1])
    model = Tiny()
    tx = make_optimizer(OptimConfig(), optax.constant_schedule(0.1))
    step = make_train_step(model, Classify(), tx, prepare_bad, mesh, seed=0, ema_decay=0.9)
    return mesh, model, tx, step


def new_state(scale: float) -> TrainState:
    mesh, model, tx, _ = parts()
    state = create_state(init_variables(model, 4, seed=0), tx, mesh, ema=True, loss_scale=True)
    return state.replace(loss_scale=first_scale(scale))


def test_a_step_that_overflows_changes_only_the_scale():
    mesh, _, _, step = parts()
    before = jax.device_get(new_state(8.0))
    after, sums = jax.device_get(step(new_state(8.0), put_batch(bad_batch(), mesh)))
    assert after.loss_scale == {"scale": 4, "good": 0} and after.step == 1
    assert sums["overflow"] == 1 and sums["loss_scale"] == 8
    same = after.replace(step=before.step, loss_scale=before.loss_scale)
    jax.tree.map(np.testing.assert_array_equal, before, same)


def test_at_a_scale_of_one_it_is_an_error():
    mesh, _, _, step = parts()
    state, sums = step(new_state(1.0), put_batch(bad_batch(), mesh))
    assert sums["overflow"] == 0 and state.loss_scale["scale"] == 1
    window = Window()
    window.add(1, sums)
    with pytest.raises(NonFinite):
        window.fetch()


def test_overflows_are_counted_and_not_averaged():
    window = Window()
    good = {"loss": 4.0, "count": 2.0, "grad_norm": 3.0, "loss_scale": 8.0, "overflow": 0.0}
    window.add(1, {k: jnp.float32(v) for k, v in good.items()})
    bad = {**good, "loss": np.inf, "grad_norm": np.nan, "overflow": 1.0}
    window.add(2, {k: jnp.float32(v) for k, v in bad.items()})
    expected = {"loss": 2, "grad_norm": 3, "loss_scale": 8, "overflows": 1}
    assert window.close() == expected and window.skipped_steps == []
    assert means({"overflows": 3}) == {}


class Float16(nn.Module):
    """Its backward pass rounds to the range of float16, where gradients of 1e-9 become 0."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(4, use_bias=False, name="head")(x.reshape(x.shape[0], -1))
        return 1e-7 * lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)


def test_small_gradients_survive():
    """Against the gradient of a linear classifier in closed form."""
    mesh, model, tx = make_mesh(jax.devices()[:1]), Float16(), optax.sgd(1e6)
    prepare = make_prepare(4, (0.5,), (0.25,), MixConfig())
    step = make_train_step(model, Classify(), tx, prepare, mesh, seed=0, ema_decay=0)
    batch = {key: value[:8] for key, value in host_batch(0).items()}
    start = init_variables(model, 8, seed=0)
    found = {}
    for scale in (1.0, 2.0**20):
        state = create_state(start, tx, mesh, ema=False, loss_scale=True)
        state = state.replace(loss_scale=first_scale(scale))
        after = jax.device_get(step(state, put_batch(batch, mesh))[0])
        kernel = after.params["head"]["kernel"]
        assert kernel.dtype == np.float32  # the master weights
        found[scale] = kernel - np.asarray(start["params"]["head"]["kernel"])
    image = ((batch["image"] / 255 - 0.5) / 0.25).reshape(8, -1)
    exact = -0.1 * image.T @ (0.25 - np.eye(4)[batch["label"]]) / 8  # all classes are equal
    assert_close(exact, found[2.0**20], 0.01)
    assert not found[1.0].any()
