"""Schedules: the learning rate of each step, and the decay of the moving average."""

import math

import jax
import jax.numpy as jnp
import optax

from train.config import ConfigError, RunConfig, to_steps


def make_schedule(config: RunConfig, *, examples: int, total_steps: int) -> optax.Schedule:
    """Step -> learning rate: linear warmup (Goyal 2017, 2.2), then cosine (Loshchilov 2017), step
    or constant.

    Args:
      config: of the run; the peak is `optim.lr * batch_size / optim.lr_batch`.
      examples: training examples in an epoch.
      total_steps: length of the run.

    Raises:
      ConfigError: the warmup is not shorter than the run.
    """
    optim = config.optim

    def steps(duration: str) -> int:
        return to_steps(
            duration, examples=examples, batch_size=config.batch_size, total=total_steps
        )

    peak = optim.lr * config.batch_size / optim.lr_batch if optim.lr_batch else optim.lr
    warmup = steps(optim.warmup)
    if total_steps == 1 and optim.warmup.endswith("%"):
        warmup = 0  # a share of one step rounds up to all of it
    if warmup >= total_steps:
        raise ConfigError(
            f"optim.warmup {optim.warmup!r} is {warmup} steps: must be shorter than the run "
            f"({config.duration!r}, {total_steps} steps)"
        )
    if optim.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, total_steps - warmup)
    elif optim.schedule == "step":
        drops: dict[int, float] = {}
        for milestone in optim.milestones:
            at = max(steps(milestone) - warmup, 0)
            drops[at] = drops.get(at, 1.0) * optim.gamma
        after = optax.piecewise_constant_schedule(peak, drops)
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    # The first step already moves: step s of the warmup has (s + 1) / (warmup + 1) of the peak.
    ramp = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([ramp, after], [warmup])


def ema_decay_at(decay: float, step: int | jax.Array) -> jax.Array:
    """The decay of the moving average in step `step` (from 0): min(decay, (1 + t) / (10 + t)).

    TensorFlow's `ExponentialMovingAverage(num_updates=...)` has the same ramp. Below `decay`, the
    average scales with the run: after t steps, the weights of step s are averaged with a factor
    9 (s + 2) ... (s + 9) / ((t + 1) ... (t + 9)), and their mean age is a tenth of t. This is the
    power function average of Karras 2024 (arXiv:2312.02696, section 3.1) with gamma = 8. The
    initial weights have the factor 9! / ((t + 1) ... (t + 9)). The ramp ends, and the horizon is
    1 / (1 - decay) steps, after `ema_warmup(decay)` steps.
    """
    return jnp.minimum(decay, (1 + step) / (10 + step))


def ema_warmup(decay: float) -> int:
    """The first step (from 0) in which `ema_decay_at` is `decay`: about 9 / (1 - decay).

    Examples:
      >>> ema_warmup(0.999), ema_warmup(0.9999)
      (8990, 89990)
    """
    return max(math.ceil(round((10 * decay - 1) / (1 - decay), 6)), 0)
