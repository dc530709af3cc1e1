"""LARS, LAMB and RMSProp: two steps of the papers' formulas in NumPy, and layers of a stack."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.scan import STACKED
from train.config import OptimConfig
from train.learn.optim import make_optimizer

RATE = 0.3
W = {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]]), "bias": np.array([0.5, -0.25])}
G = [
    {"kernel": np.array([[0.1, 0.2], [-0.3, 0.4]]), "bias": np.array([0.3, 0.1])},
    {"kernel": np.array([[0.5, -0.1], [0.2, 0.1]]), "bias": np.array([-0.2, 0.4])},
]


def after(optim: OptimConfig, weights=W, grads=G) -> dict:
    tx = make_optimizer(optim, optax.constant_schedule(RATE))
    params = jax.tree.map(jnp.asarray, weights)
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update(jax.tree.map(jnp.asarray, g), state, params)
        params = optax.apply_updates(params, updates)
    return params


def lars(w: np.ndarray, grads, *, decay: float, trust: float, m: float, adapts: bool) -> np.ndarray:
    """Algorithm 1 of the paper: v = m v + rate * local * (g + decay w); w = w - v."""
    v = np.zeros_like(w)
    for g in grads:
        norm = np.linalg.norm
        local = trust * norm(w) / (norm(g) + decay * norm(w)) if adapts else 1.0
        v = m * v + RATE * local * (g + (decay * w if adapts else 0))
        w = w - v
    return w


def lamb(w: np.ndarray, grads, *, decay: float, b1: float, b2: float, eps: float, adapts: bool):
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        if adapts:
            step = step + decay * w
            step = step * np.linalg.norm(w) / np.linalg.norm(step)
        w = w - RATE * step
    return w


@pytest.mark.parametrize("mask", ["kernels", "all"])
def test_lars(mask):
    optim = OptimConfig(name="lars", momentum=0.9, weight_decay=0.1, trust=0.02, decay_mask=mask)
    found = after(optim)
    for name in W:
        adapts = name == "kernel" or mask == "all"
        grads = [g[name] for g in G]
        expected = lars(W[name], grads, decay=0.1, trust=0.02, m=0.9, adapts=adapts)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)


@pytest.mark.parametrize("mask", ["kernels", "all"])
def test_lamb(mask):
    optim = OptimConfig(name="lamb", momentum=0.8, beta2=0.9, epsilon=0.01, weight_decay=0.1)
    found = after(replace(optim, decay_mask=mask))
    for name in W:
        adapts = name == "kernel" or mask == "all"
        grads = [g[name] for g in G]
        expected = lamb(W[name], grads, decay=0.1, b1=0.8, b2=0.9, eps=0.01, adapts=adapts)
        np.testing.assert_allclose(found[name], expected, rtol=2e-6)


def test_rmsprop_is_torchs():
    """v = a v + (1 - a) g^2; b = m b + g / (sqrt(v) + eps); w = w - rate b."""
    optim = OptimConfig(name="rmsprop", momentum=0.9, beta2=0.5, epsilon=0.01, weight_decay=0.0)
    found = after(optim)
    for name, w in W.items():
        v = b = np.zeros_like(w)
        for g in G:
            v = 0.5 * v + 0.5 * g[name] ** 2
            b = 0.9 * b + g[name] / (np.sqrt(v) + 0.01)
            w = w - RATE * b
        np.testing.assert_allclose(found[name], w, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_a_layer_of_zeros_has_the_plain_rate(name):
    optim = OptimConfig(name=name, momentum=0.0, weight_decay=0.0, epsilon=1e-30)
    zeros = {"kernel": np.zeros((2, 2))}
    found = after(optim, zeros, [{"kernel": G[0]["kernel"]}])["kernel"]
    step = G[0]["kernel"] if name == "lars" else np.sign(G[0]["kernel"])
    np.testing.assert_allclose(found, -RATE * step, rtol=1e-5)


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_blocks_of_a_stack_are_layers_of_their_own(name):
    optim = OptimConfig(name=name, weight_decay=0.1)
    other = {"kernel": 10 * W["kernel"], "bias": W["bias"]}
    apart = [after(optim, w, G)["kernel"] for w in (W, other)]
    both = jax.tree.map(lambda a, b: np.stack([a, b]), W, other)
    stacked = after(
        optim, {STACKED: both}, [{STACKED: jax.tree.map(lambda a: np.stack([a, a]), g)} for g in G]
    )
    np.testing.assert_allclose(stacked[STACKED]["kernel"], np.stack(apart), rtol=1e-6)
