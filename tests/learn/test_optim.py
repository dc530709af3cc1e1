"""Schedules and update rules in closed form."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.config import ConfigError, OptimConfig, RunConfig
from train.learn.optim import (
    decay_mask,
    ema_decay_at,
    ema_warmup,
    make_optimizer,
    make_schedule,
)

PARAMS = {
    "conv": {"kernel": jnp.asarray([[1.0, -2.0]])},
    "norm": {"scale": jnp.asarray([3.0]), "bias": jnp.asarray([0.5])},
}
GRADS = {
    "conv": {"kernel": jnp.asarray([[0.1, 0.2]])},
    "norm": {"scale": jnp.asarray([0.3]), "bias": jnp.asarray([0.4])},
}


def schedule(total: int = 100, **options: object) -> optax.Schedule:
    config = RunConfig(batch_size=512, optim=OptimConfig(lr=0.1, **options))
    return make_schedule(config, examples=1000, total_steps=total)


def test_linear_scaling():
    assert schedule(schedule="constant")(0) == pytest.approx(0.2)
    assert schedule(schedule="constant", lr_batch=128)(0) == pytest.approx(0.4)
    assert schedule(schedule="constant", lr_batch=0)(0) == pytest.approx(0.1)


def test_cosine_behind_warmup():
    rate = schedule(warmup="10st")
    np.testing.assert_allclose(
        [rate(s) for s in (0, 4, 9)], [0.2 * s / 11 for s in (1, 5, 10)], 1e-5
    )
    assert rate(10) == pytest.approx(0.2)
    assert rate(55) == pytest.approx(0.1)  # half of the 90 steps behind the warmup
    assert rate(10 + 30) == pytest.approx(0.2 * 0.75)  # (1 + cos 60 degrees) / 2
    assert rate(100) == pytest.approx(0, abs=1e-9)


def test_step_schedule_counts_from_the_start_of_the_run():
    rate = schedule(schedule="step", warmup="10st", milestones=("50%", "75%"), gamma=0.5)
    expected = {10: 0.2, 49: 0.2, 50: 0.1, 74: 0.1, 75: 0.05, 99: 0.05}
    assert {s: pytest.approx(float(rate(s))) for s in expected} == expected


def test_two_milestones_at_one_step_multiply():
    rate = schedule(schedule="step", milestones=("50st", "50%"))
    assert rate(49) == pytest.approx(0.2)
    assert rate(50) == pytest.approx(0.002)


def test_epochs_in_schedules():
    rate = schedule(schedule="step", milestones=("10ep",))  # 10 * 1000 / 512 = 19.5 -> 20
    assert rate(19) == pytest.approx(0.2)
    assert rate(20) == pytest.approx(0.02)


def test_warmup_must_be_shorter_than_the_run():
    with pytest.raises(ConfigError, match=r"optim.warmup '90ep' is 176 steps.*'90ep', 100 steps"):
        schedule(warmup="90ep")


def update(optim: OptimConfig, grads=GRADS, steps: int = 1):
    tx = make_optimizer(optim, optax.constant_schedule(0.1))
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_mask_takes_kernels_alone():
    assert decay_mask(PARAMS) == {
        "conv": {"kernel": True},
        "norm": {"scale": False, "bias": False},
    }


def test_sgd_with_l2_and_momentum_is_torchs():
    """v = 0.9 v + (g + wd p); p -= lr v. torch.optim.SGD, two steps by hand."""
    p, v = np.asarray([1.0, -2.0]), np.zeros(2)
    for _ in range(2):
        v = 0.9 * v + np.asarray([0.1, 0.2]) + 0.5 * p
        p = p - 0.1 * v
    after = update(OptimConfig(weight_decay=0.5), steps=2)
    np.testing.assert_allclose(after["conv"]["kernel"][0], p, 1e-6)
    # the norm's scale does not decay: 3 - 0.1 * (0.3 + (0.3 + 0.27))
    np.testing.assert_allclose(after["norm"]["scale"], [3 - 0.1 * 0.87], 1e-6)


def test_nesterov_is_torchs():
    """p -= lr (g + 0.9 v), v = 0.9 v + g."""
    after = update(OptimConfig(weight_decay=0.0, nesterov=True), steps=2)
    v1 = 0.3
    v2 = 0.9 * v1 + 0.3
    expected = 3 - 0.1 * (0.3 + 0.9 * v1) - 0.1 * (0.3 + 0.9 * v2)
    np.testing.assert_allclose(after["norm"]["scale"], [expected], 1e-6)


def test_decoupled_decay_stays_out_of_the_momentum():
    after = update(OptimConfig(weight_decay=0.5, decay="decoupled"), steps=2)
    p, v = 1.0, 0.0
    for _ in range(2):
        v = 0.9 * v + 0.1
        p = p - 0.1 * (v + 0.5 * p)
    np.testing.assert_allclose(after["conv"]["kernel"][0, 0], p, 1e-6)


def test_decay_of_everything():
    after = update(OptimConfig(weight_decay=0.5, decay_mask="all"))
    np.testing.assert_allclose(after["norm"]["scale"], [3 - 0.1 * (0.3 + 1.5)], 1e-6)


def test_adamw_first_step_is_the_sign_of_the_gradient():
    after = update(OptimConfig(name="adamw", weight_decay=0.5, decay="decoupled"))
    np.testing.assert_allclose(after["conv"]["kernel"][0, 0], 1 - 0.1 * (1 + 0.5), 1e-5)
    np.testing.assert_allclose(after["norm"]["bias"], [0.5 - 0.1], 1e-5)


def test_adam_beta2_and_epsilon():
    """Two unequal gradients: m and v in closed form."""
    options = OptimConfig(name="adamw", weight_decay=0.0, beta2=0.5, epsilon=0.1, momentum=0.8)
    tx = make_optimizer(options, optax.constant_schedule(1.0))
    p = {"bias": jnp.asarray(0.0)}
    state = tx.init(p)
    expected, m, v = 0.0, 0.0, 0.0
    for t, g in enumerate((1.0, -3.0), start=1):
        updates, state = tx.update({"bias": jnp.asarray(g)}, state, p)
        p = optax.apply_updates(p, updates)
        m, v = 0.8 * m + 0.2 * g, 0.5 * v + 0.5 * g * g
        expected -= (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.5**t)) + 0.1)
    assert p["bias"] == pytest.approx(expected, rel=1e-5)


def test_clipping_is_by_the_norm_over_all_parameters():
    norm = np.sqrt(0.01 + 0.04 + 0.09 + 0.16)
    after = update(OptimConfig(weight_decay=0.0, clip=0.1))
    np.testing.assert_allclose(after["norm"]["scale"], [3 - 0.1 * 0.3 * 0.1 / norm], 1e-5)
    unclipped = update(OptimConfig(weight_decay=0.0, clip=1.0))
    np.testing.assert_allclose(unclipped["norm"]["scale"], [3 - 0.1 * 0.3], 1e-6)


def test_ema_decay_warms_up():
    decays = [float(ema_decay_at(0.99, jnp.asarray(s))) for s in (0, 8, 10_000)]
    np.testing.assert_allclose(decays, [0.1, 0.5, 0.99], 1e-6)


@pytest.mark.parametrize(("decay", "steps"), [(0.9, 80), (0.99, 890), (0.999, 8990), (0.05, 0)])
def test_ema_warmup_is_where_the_ramp_ends(decay, steps):
    assert ema_warmup(decay) == steps
    for step in (steps, steps + 1000):
        assert float(ema_decay_at(decay, step)) == pytest.approx(decay, rel=1e-6)
    if steps:
        assert float(ema_decay_at(decay, steps - 1)) < decay - 5e-8


def test_the_average_of_a_short_run_covers_its_last_tenth():
    """Whatever ema_decay is: the factors of the weights of each step, in closed form."""
    total = 1000
    decays = np.asarray([float(ema_decay_at(0.9999, s)) for s in range(total)])
    rest = np.append(np.cumprod(decays[::-1])[::-1], 1.0)  # what later steps leave
    factors = (1 - decays) * rest[1:]
    s = np.arange(total, dtype=np.float64)
    below = math.prod(total + i for i in range(1, 10))
    expected = 9 * np.prod([s + i for i in range(2, 10)], 0) / below
    np.testing.assert_allclose(factors[20:], expected[20:], rtol=1e-3)
    assert rest[0] == pytest.approx(math.factorial(9) / below, rel=1e-3)  # the initial weights
    age = (factors * (total - 1 - s)).sum()
    assert age == pytest.approx(total / 10, rel=0.02)


def test_schedule_runs_in_the_optimiser():
    tx = make_optimizer(replace(OptimConfig(), momentum=0.0, weight_decay=0.0), lambda s: s + 1.0)
    params, grads = {"bias": jnp.zeros(())}, {"bias": jnp.ones(())}
    state = tx.init(params)
    for step in range(3):
        updates, state = tx.update(grads, state, params)
        assert updates["bias"] == -(step + 1)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


def test_clipping_by_value_comes_before_clipping_by_norm():
    """(3, -0.1) is cut to (0.5, -0.1), whose norm is then cut to 0.1."""
    grads = {"kernel": jnp.asarray([3.0, -0.1])}
    options = {"momentum": 0.0, "weight_decay": 0.0, "clip_value": 0.5}
    for norm, factor in ((0.0, 1.0), (0.1, 0.1 / math.hypot(0.5, 0.1))):
        optim = OptimConfig(clip=norm, **options)
        tx = make_optimizer(optim, optax.constant_schedule(1.0))
        found, _ = tx.update(grads, tx.init(grads), grads)
        np.testing.assert_allclose(-found["kernel"], factor * np.array([0.5, -0.1]), 1e-5)
