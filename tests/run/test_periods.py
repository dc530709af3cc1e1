"""train/run/periods.py: when to log, evaluate and save."""

from tests.runs import tiny
from train.config import CheckpointConfig, EvalConfig
from train.run.parts import Run
from train.run.periods import Periods


def periods(log: str, evaluate: str, save: str) -> Periods:
    """Of a run of 20 steps."""
    options = {"eval": EvalConfig(every=evaluate), "checkpoint": CheckpointConfig(every=save)}
    return Periods(Run(tiny(duration="20st", log_every=log, **options)))


def test_what_follows_a_step():
    found = periods("6st", "8st", "")
    steps = range(1, 21)
    assert [step for step in steps if found.logs(step)] == [6, 12, 18, 20]
    assert [step for step in steps if found.evaluates(step)] == [8, 16, 20]
    assert [step for step in steps if found.saves(step)] == [20]


def test_the_next_step_that_something_follows():
    found = periods("6st", "8st", "")
    step, stops = 0, []
    while step < 20:
        step += found.until_next(step)
        stops.append(step)
    assert stops == [6, 8, 12, 16, 18, 20]


def test_a_period_of_less_than_a_step_is_one_step():
    assert periods("0.001ep", "8st", "").until_next(5) == 1
