"""A duration in hours: the number of steps is chosen once, before the run, from measured times.

From then on the run is one of so many steps, with its schedule: config.json has the number, and
beside it, in "time_budget", the time that was asked for. A resumed run does not measure again.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.config import ConfigError, RunConfig
from train.config.base import seconds_in
from train.console import warn
from train.data.prefetch import never
from train.run import out_of_memory
from train.run.directory import read_record
from train.run.dispatch import dispatches
from train.run.evaluate import evaluate
from train.run.parts import Run
from train.run.pixels import use_stand_in

_WARM, _STEPS = 5, 20  # steps that are not measured, and the fewest that are
_SECONDS = 10.0
"""How long steps are measured at most, if the fewest take less."""
_SHARE = 0.97
"""Share of the time that is planned: checkpoints, the report and slower steps have the rest."""


class Times(NamedTuple):
    """Seconds."""

    compile: float
    """To compile the training step, which the run does again."""
    step: float
    evaluation: float


def keep_steps(workdir: Path, config: RunConfig, began: RunConfig) -> RunConfig:
    """`config` with the steps of the run in `workdir`, if it was given the same time.

    Raises:
      ConfigError: it was given another time, or none.
    """
    if seconds_in(config.duration) is None:
        return config
    budget = read_record(workdir).get("time_budget")
    if budget != config.duration:
        was = f"{budget}, which is {began.duration}" if budget else began.duration
        raise ConfigError(
            f"duration {config.duration!r}: the run in {str(workdir)!r} has --duration {was}; give "
            "that, or epochs or steps with --extend, or another --workdir"
        )
    return replace(config, duration=began.duration)


def choose_steps(
    config: RunConfig, since: float, check: Callable[[Run], object], say: Callable[[str], None]
) -> RunConfig:
    """`config` with steps in place of a duration in hours. It trains a few steps, and forgets them.

    Args:
      since: when the time began, by `time.perf_counter`.
      check: called with the run before it is measured, to report mistakes first.
      say: receives lines for the user.

    Raises:
      ConfigError: the time is too short for a step.
    """
    budget = seconds_in(config.duration)
    if budget is None:
        return config
    full = replace(config.augment, size_start=0)  # images that grow: at their last size
    run = Run(replace(config, duration="1000000st", augment=full))
    check(run)
    use_stand_in(run)  # what is measured on the images takes no other time
    say(f"measuring the speed, to choose the number of steps for {config.duration}")
    found = measure(run, min(_SECONDS, budget / 50))
    left = budget - (_now() - since) - found.compile
    every = max(run.steps(config.eval.every), 1)
    steps = int(_agreed(np.int32(steps_in(_SHARE * left, found, every))))
    if steps < 1:
        raise ConfigError(
            f"duration {config.duration!r}: too short. A step takes {found.step:.3g} s, an "
            f"evaluation {found.evaluation:.3g} s, and {budget - left:.0f} s pass before the first"
        )
    say(
        f"duration {config.duration}: {steps:,} steps of {found.step:.3g} s, an evaluation "
        f"takes {found.evaluation:.3g} s"
    )
    return replace(config, duration=f"{steps}st")


def steps_in(seconds: float, times: Times, every: int) -> int:
    """The number of steps, with an evaluation after `every` steps and two at the end.

    >>> steps_in(100.0, Times(compile=0.0, step=1.0, evaluation=5.0), every=10)
    60
    """
    return int((seconds - 2 * times.evaluation) / (times.step + times.evaluation / every))


def measure(run: Run, least: float) -> Times:
    """Trains for `least` seconds or more, and evaluates, with weights that are thrown away."""
    with out_of_memory.explained(out_of_memory.for_training(run)):
        state = run.new_state()
        with dispatches(run, 0, report=warn, stopped=never, say=lambda _: None) as stream:

            def seconds(count: int) -> float:
                nonlocal state
                since, done = _now(), 0
                while done < count:
                    work = stream.next(count - done)
                    state, sums = stream.run(state, work)
                    done += work.steps
                jax.block_until_ready(sums)
                return _now() - since

            first = seconds(1)
            seconds(_WARM)
            step = _agreed(seconds(_STEPS) / _STEPS)
            if (more := int(least / step)) > _STEPS:
                step = _agreed(seconds(more) / more)
    weights = {"raw": state.variables} | ({"ema": state.ema} if state.ema else {})
    passes = []
    for _ in range(2):  # the first one compiles
        since = _now()
        evaluate(run, weights)
        passes.append(_now() - since)
    return Times(max(first - step, 0.0), step, _agreed(min(passes)))


def _now() -> float:
    return time.perf_counter()


def _agreed(value: float | np.int32) -> float:
    """The value of process 0, for all of them."""
    return float(multihost_utils.broadcast_one_to_all(np.asarray(value)))
