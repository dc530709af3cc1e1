"""Averages of the weights over the steps of a run: what share of the average each update keeps."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from train.config import ConfigError, RunConfig, to_steps
from train.learn.optim.schedules import ema_decay_at


class Average(NamedTuple):
    """How a run averages its weights: a = d a + (1 - d) w, after every `every`-th step."""

    decay: optax.Schedule
    """Step (from 0) -> d, for the steps after which the average is updated."""
    every: int


def make_average(config: RunConfig, *, examples: int, total_steps: int) -> Average | None:
    """The average of `ema_decay` or `swa_start`; None: the run has none.

    Args:
      config: of the run.
      examples: training examples in an epoch.
      total_steps: length of the run.

    Raises:
      ConfigError: `swa_start` is not before the end of the run, or no update follows it.
    """
    if not config.averages:
        return None

    steps = partial(to_steps, examples=examples, batch_size=config.batch_size, total=total_steps)
    every = max(steps(config.ema_every), 1)
    last = total_steps // every * every
    if not last:
        raise ConfigError(
            f"ema_every {config.ema_every!r} is {every} steps: must be at most the run "
            f"({total_steps} steps), or the average would stay at the initial weights"
        )
    if config.swa_start:
        start = steps(config.swa_start)
        if start >= total_steps:
            raise ConfigError(
                f"swa_start {config.swa_start!r} is step {start}: must be before the end of the run"
                f" ({total_steps} steps)"
            )
        if last <= start:
            raise ConfigError(
                f"ema_every {config.ema_every!r}: the average is updated after step {last} for the "
                f"last time, before swa_start {config.swa_start!r} (step {start})"
            )
        return Average(lambda step: equal_decay(step, start=start, every=every), every)
    if config.ema_rule == "ramp":
        ramp = partial(ema_decay_at, config.ema_decay)
        return Average(ramp if every == 1 else lambda step: ramp(step // every), every)
    decay = corrected_decay(
        config.ema_decay,
        batch_size=config.batch_size,
        every=every,
        epochs=total_steps * config.batch_size / examples,
    )
    first = steps(config.optim.warmup) + every
    return Average(lambda step: jnp.where(step < first, 0.0, decay), every)


def corrected_decay(decay: float, *, batch_size: int, every: int, epochs: float) -> float:
    """The decay of an update, so that the average covers the same share of any run.

    torchvision, references/classification/train.py: 1 - min(1, (1 - d) B n / epochs), with the
    global batch size B and an update every n steps. There, and here, updates up to the first one
    after the warm-up of the learning rate copy the weights instead.

    >>> round(corrected_decay(0.99998, batch_size=1024, every=32, epochs=600), 6)
    0.998908
    """
    return 1 - min(1.0, (1 - decay) * batch_size * every / epochs)


def equal_decay(step: jax.Array | int, *, start: int, every: int) -> jax.Array:
    """The decay after step `step` of an equal average over the updates from step `start` on.

    Stochastic weight averaging (Izmailov 2018, arXiv:1803.05407): n / (n + 1), with n updates so
    far; 0 before `start`, where the average is a copy of the weights. Steps are counted from 0, and
    an update follows every `every`-th one.

    Examples:
      >>> [round(float(equal_decay(s, start=4, every=2)), 3) for s in (1, 3, 5, 7, 9)]
      [0.0, 0.0, 0.0, 0.5, 0.667]
    """
    done = jnp.maximum((step + 1) // every - 1 - start // every, 0)
    return done / (done + 1)
