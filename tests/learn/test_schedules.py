"""train/learn/optim/schedules.py: every schedule in closed form, its floor and its scaling."""

import math

import numpy as np
import optax
import pytest

from train.config import ConfigError, OptimConfig, RunConfig
from train.learn.optim import make_schedule, peak_rate

WARMUP, TOTAL, PEAK = 20, 100, 0.2
LEFT = TOTAL - WARMUP


def rate(**options: object) -> optax.Schedule:
    """For 100 steps and a peak of 0.2."""
    given = {"lr": PEAK, "lr_batch": 0, "warmup": f"{WARMUP}st", **options}
    config = RunConfig(batch_size=50, duration=f"{TOTAL}st", optim=OptimConfig(**given))
    return make_schedule(config, examples=1000, total_steps=TOTAL)


def cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


FLOOR = 0.01
AFTER = {
    "cosine": ({}, lambda s: cosine(PEAK, FLOOR, s / LEFT)),
    "linear": ({}, lambda s: FLOOR + (PEAK - FLOOR) * (1 - s / LEFT)),
    "polynomial": ({"power": 3.0}, lambda s: FLOOR + (PEAK - FLOOR) * (1 - s / LEFT) ** 3),
    "one_cycle": ({}, lambda s: cosine(PEAK, FLOOR, s / LEFT)),
    "inverse_sqrt": ({}, lambda s: PEAK * math.sqrt(WARMUP / (WARMUP + s))),
    "constant": ({"floor": 0.0}, lambda s: PEAK),
}


@pytest.mark.parametrize("name", AFTER)
def test_after_the_warmup(name):
    options, expected = AFTER[name]
    found = rate(schedule=name, **{"floor": FLOOR, **options})
    steps = (0, 1, LEFT // 3, LEFT // 2, LEFT - 1, LEFT)
    values = [float(found(WARMUP + s)) for s in steps]
    np.testing.assert_allclose(values, [expected(s) for s in steps], rtol=2e-6)


def test_the_warmup():
    ramp = rate(schedule="linear")
    found = [float(ramp(s)) for s in range(WARMUP)]
    np.testing.assert_allclose(found, [PEAK * (s + 1) / (WARMUP + 1) for s in range(WARMUP)], 1e-5)
    rise = rate(schedule="one_cycle")
    found = [float(rise(s)) for s in range(WARMUP)]
    expected = [cosine(PEAK / 25, PEAK, s / WARMUP) for s in range(WARMUP)]
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_inverse_sqrt_stops_at_the_floor_and_starts_without_warmup():
    found = rate(schedule="inverse_sqrt", warmup="0st", floor=0.05)
    values = [float(found(s)) for s in (0, 3, 15, 99)]
    np.testing.assert_allclose(values, [PEAK, PEAK / 2, 0.05, 0.05], rtol=1e-6)


@pytest.mark.parametrize("scaling, factor", [("linear", 4.0), ("sqrt", 2.0)])
def test_scaling(scaling, factor):
    config = RunConfig(batch_size=1024, optim=OptimConfig(lr=0.1, lr_batch=256, scaling=scaling))
    assert peak_rate(config) == pytest.approx(0.1 * factor)
    found = make_schedule(config, examples=1024, total_steps=10)
    assert float(found(0)) == pytest.approx(0.1 * factor)


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial", "one_cycle"])
def test_hold_reaches_the_floor_earlier_and_stays_there(name):
    """The rate of a run that is shorter by the hold, and then the floor."""
    held = rate(schedule=name, floor=FLOOR, hold="20st")
    options = OptimConfig(lr=PEAK, lr_batch=0, schedule=name, floor=FLOOR, warmup=f"{WARMUP}st")
    short = make_schedule(RunConfig(optim=options), examples=1000, total_steps=WARMUP + LEFT - 20)
    values = [float(held(s)) for s in (0, WARMUP, WARMUP + 9, WARMUP + LEFT - 21)]
    expected = [float(short(s)) for s in (0, WARMUP, WARMUP + 9, WARMUP + LEFT - 21)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    last = [float(held(WARMUP + LEFT - s)) for s in (20, 10, 1)]
    np.testing.assert_allclose(last, FLOOR, rtol=1e-5)


def test_cycles_in_the_hold():
    """From the formula of SWA, with i steps counted from 1, in the last 20 of 100 steps."""
    found = rate(floor=FLOOR, hold="20st", cycle="8st", cycle_lr=0.05)
    plain = rate(floor=FLOOR, hold="20st")
    for step in range(TOTAL):
        share = ((step + 1 - 1) % 8 + 1) / 8
        expected = (1 - share) * 0.05 + share * FLOOR if step >= 80 else float(plain(step))
        assert float(found(step)) == pytest.approx(expected, rel=1e-5)
    assert float(found(87)) == pytest.approx(FLOOR)  # 88 steps done: 11 cycles


def test_refusals():
    with pytest.raises(ConfigError, match=r"optim.cycle_lr 0.05: must be above optim.floor 0.06"):
        OptimConfig(floor=0.06, cycle="1ep")
    with pytest.raises(ConfigError, match=r"optim.hold '80%' is 8\d* steps: with optim.warmup"):
        rate(floor=FLOOR, hold="80%", warmup="20%")
    with pytest.raises(ConfigError, match=r"optim.floor 0.2: must be below the peak rate, 0.2"):
        rate(floor=0.2)
    with pytest.raises(ConfigError, match=r"optim.schedule one_cycle: needs optim.warmup, such as"):
        rate(schedule="one_cycle", warmup="0st")
