"""Sharpness-aware minimisation: against the formula, on a quadratic and on a network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.learn.test_accumulate import BATCH, KEY, network
from tests.learn.test_step import assert_close
from tests.networks import jit
from train.config import MixConfig
from train.distributed.mesh import make_mesh, put_batch
from train.learn.gradients import Gradient, accumulate, sharpness_aware
from train.learn.prepare import make_prepare
from train.learn.step import make_gradient
from train.learn.tasks import Classify

RHO = 0.3


def test_a_quadratic_in_closed_form():
    """f(w) = w'Aw / 2: the gradient of SAM is A (w + rho Aw / |Aw|)."""
    a = np.array([[3.0, 1.0], [1.0, 2.0]], np.float32)
    w = np.array([1.0, -2.0], np.float32)

    def gradient(params, stats, batch, key):
        return {"w": a @ params["w"]}, (stats, {})

    found, _ = sharpness_aware(gradient, RHO)({"w": jnp.asarray(w)}, {}, {}, KEY)
    g = a @ w
    np.testing.assert_allclose(found["w"], a @ (w + RHO * g / np.linalg.norm(g)), rtol=1e-6)
    still, _ = sharpness_aware(gradient, RHO)({"w": jnp.zeros(2)}, {}, {}, KEY)
    assert np.asarray(still["w"]).tolist() == [0, 0]  # a gradient of 0 has no direction


def plain() -> Gradient:
    model, _ = network("batch", 0.5)
    prepare = make_prepare(4, (0.5,), (0.25,), MixConfig())
    return make_gradient(model, Classify(), prepare, jnp.zeros((), jnp.int32))


@functools.cache
def arguments():
    variables = network("batch", 0.5)[1]
    batch = put_batch(BATCH, make_mesh(jax.devices()[:1]))
    return variables["params"], variables["batch_stats"], batch, KEY


def test_a_network():
    """The gradient at w + rho g / |g|; running statistics and loss of the first pass."""
    params, stats, batch, key = arguments()
    gradient = jit(plain())
    grads, (first_stats, first_sums) = gradient(params, stats, batch, key)
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(grads)))
    uphill = jax.tree.map(lambda w, g: w + RHO * g / norm, params, grads)
    expected, (other_stats, _) = gradient(uphill, stats, batch, key)
    found, (found_stats, sums) = jit(sharpness_aware(plain(), RHO))(params, stats, batch, key)
    assert_close(expected, found, 1e-5)
    assert_close(first_stats, found_stats, 1e-6)
    assert float(sums["loss"]) == pytest.approx(float(first_sums["loss"]), rel=1e-6)
    for other, first in ((grads, found), (other_stats, found_stats)):
        assert float(optax.tree.norm(jax.tree.map(jnp.subtract, other, first))) > 1e-3


def test_with_accumulation_the_direction_is_that_of_the_whole_batch():
    params, stats, batch, key = arguments()
    inner = accumulate(plain(), 4, make_mesh(jax.devices()[:1]))
    parts = jit(inner)
    grads, _ = parts(params, stats, batch, key)
    norm = optax.tree.norm(grads)
    uphill = jax.tree.map(lambda w, g: w + RHO * g / norm, params, grads)
    expected, _ = parts(uphill, stats, batch, key)
    found, _ = jit(sharpness_aware(inner, RHO))(params, stats, batch, key)
    assert_close(expected, found, 1e-5)
