"""Averages of the weights: each rule against its formula, written out over a run."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.learn.test_step import assert_close, host_batch
from tests.runs import tiny
from train.config import ConfigError, OptimConfig, RunConfig
from train.distributed.mesh import put_batch
from train.learn.optim import ema_decay_at, equal_decay, make_average
from train.learn.state import TrainState
from train.learn.step import _update_ema
from train.run.fit import fit
from train.run.parts import Run
from train.run.start_screen import describe_run

EXAMPLES = 1000


def averages(config: RunConfig, weights: np.ndarray) -> list[float]:
    """The average after each step of a run whose weights are `weights`."""
    average = make_average(config, examples=EXAMPLES, total_steps=len(weights))
    assert average is not None
    start = {"w": jnp.float32(0)}
    state = TrainState(jnp.int32(0), {}, {}, (), start)
    update = jax.jit(lambda s, w: _update_ema(s, {"w": w}, average.decay, average.every))
    found = []
    for i, w in enumerate(weights):
        state = state.replace(step=jnp.int32(i))
        state = state.replace(ema=update(state, w))
        found.append(float(state.ema["w"]))
    return found


WEIGHTS = np.random.default_rng(0).normal(size=40).astype(np.float32)


def test_the_ramp_counts_updates():
    found = averages(RunConfig(ema_decay=0.8, ema_every="3st"), WEIGHTS)
    average, expected = 0.0, []
    for i, w in enumerate(WEIGHTS):
        if i % 3 == 2:
            d = float(ema_decay_at(0.8, i // 3))
            average = d * average + (1 - d) * w
        expected.append(average)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 9])
def test_torchvisions_rule(warmup):
    """references/classification/train.py, as it is written there: alpha, adjust, n_averaged."""
    batch, every, d, total = 100, 4, 0.999, len(WEIGHTS)
    optim = OptimConfig(warmup=f"{warmup}st")
    config = RunConfig(
        batch_size=batch, ema_decay=d, ema_every="4st", ema_rule="torchvision", optim=optim
    )
    epochs = total * batch / EXAMPLES
    alpha = min(1.0, (1.0 - d) * batch * every / epochs)
    assert 0.09 < alpha < 0.11
    average, n_averaged, expected = 0.0, 0, []
    for i, w in enumerate(WEIGHTS):
        if i % every == every - 1:
            average = w if n_averaged == 0 else (1 - alpha) * average + alpha * w
            n_averaged = 0 if i < warmup else n_averaged + 1
        expected.append(average)
    np.testing.assert_allclose(averages(config, WEIGHTS), expected, rtol=1e-5)


@pytest.mark.parametrize("every", [1, 4])
def test_equal_factors_from_the_start_on(every):
    config = RunConfig(swa_start="50%", ema_every=f"{every}st")
    found = averages(config, WEIGHTS)
    at = [i for i in range(20, 40) if (i + 1) % every == 0]
    for i in at:
        expected = WEIGHTS[[j for j in at if j <= i]].mean()
        assert found[i] == pytest.approx(expected, rel=1e-5)
    assert found[19] == WEIGHTS[19]  # a copy of the weights until then


def test_a_start_between_two_updates():
    """Updates follow steps 2, 5, 8, 11 (from 0); those from step 4 on count."""
    decays = [float(equal_decay(s, start=4, every=3)) for s in (2, 5, 8, 11)]
    np.testing.assert_allclose(decays, [0, 0, 1 / 2, 2 / 3], rtol=1e-6)


def test_no_average():
    assert make_average(RunConfig(), examples=EXAMPLES, total_steps=10) is None


def test_a_start_at_the_end_of_the_run_is_refused(tmp_path):
    config = tiny(swa_start="60st")
    with pytest.raises(ConfigError, match="swa_start '60st' is step 60: must be before the end of"):
        fit(config, tmp_path, quiet=True)


def test_a_run_averages_its_last_steps():
    """Its average is the mean of the variables after each of the last four steps."""
    run = Run(tiny(duration="8st", swa_start="50%"))
    screen = "\n".join(describe_run(run, Path("x"), None))
    assert "parameters, averaged from step 4 on with equal factors\n" in screen
    state, seen = run.new_state(), []
    for i in range(8):
        state, _ = run.train_step(state, put_batch(host_batch(i), run.mesh))
        seen.append(jax.device_get(state.variables))
    mean = jax.tree.map(lambda *x: np.mean(x, 0), *seen[4:])
    assert_close(mean, jax.device_get(state.ema), 1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ema_decay": 0.9, "ema_every": "61st"}, "ema_every '61st' is 61 steps: must be at most"),
        ({"swa_start": "41st", "ema_every": "40st"}, "after step 40 for the last time, before"),
    ],
)
def test_an_average_that_is_never_updated(options, message):
    with pytest.raises(ConfigError, match=message):
        make_average(tiny(**options), examples=EXAMPLES, total_steps=60)
