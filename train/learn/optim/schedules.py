"""Schedules: the learning rate of each step, and the decay of the moving average."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax

from train.config import ConfigError, OptimConfig, RunConfig, to_steps

_FALL_TO_THE_FLOOR = ("cosine", "linear", "polynomial", "one_cycle")


def make_schedule(config: RunConfig, *, examples: int, total_steps: int) -> optax.Schedule:
    """Step -> learning rate: linear warmup (Goyal 2017, 2.2), then `optim.schedule`.

    The peak is `peak_rate(config)`. With s steps after the warmup, of n, and the floor f:

    - cosine: f + (peak - f) (1 + cos(pi s / n)) / 2 (Loshchilov 2017, arXiv:1608.03983)
    - linear, polynomial: f + (peak - f) (1 - s / n)^p, with p = 1 or `optim.power`
    - inverse_sqrt: peak sqrt(w / (w + s)), w = max(warmup, 1) (Vaswani 2017, arXiv:1706.03762),
      at least f
    - step: the peak times `optim.gamma` for each milestone that has passed
    - constant: the peak
    - one_cycle: the warmup is the first part of the cycle, a cosine from peak / 25; then a cosine
      to f (Smith 2018, arXiv:1803.09820; the shape of torch's OneCycleLR)

    With `optim.hold`, cosine, linear, polynomial and one_cycle reach f earlier, and stay there, or
    begin the cycles of `cyclic`.

    Args:
      config: of the run.
      examples: training examples in an epoch.
      total_steps: length of the run.

    Raises:
      ConfigError: the warmup is not shorter than the run; one_cycle has none; the floor is not
        below the peak.
    """
    optim = config.optim

    steps = partial(to_steps, examples=examples, batch_size=config.batch_size, total=total_steps)
    peak = peak_rate(config)
    if optim.floor >= peak and optim.schedule not in ("step", "constant"):
        raise ConfigError(f"optim.floor {optim.floor:g}: must be below the peak rate, {peak:g}")
    warmup = steps(optim.warmup)
    if total_steps == 1 and optim.warmup.endswith("%"):
        warmup = 0  # a share of one step rounds up to all of it
    if warmup >= total_steps:
        raise ConfigError(
            f"optim.warmup {optim.warmup!r} is {warmup} steps: must be shorter than the run "
            f"({config.duration!r}, {total_steps} steps)"
        )
    if optim.schedule == "one_cycle" and not warmup and total_steps > 1:
        raise ConfigError("optim.schedule one_cycle: needs optim.warmup, such as '30%'")
    drops = [max(steps(milestone) - warmup, 0) for milestone in optim.milestones]
    hold = steps(optim.hold) if optim.hold and optim.schedule in _FALL_TO_THE_FLOOR else 0
    _check_hold(optim, hold, warmup, total_steps)
    end = total_steps - warmup - hold
    after = _after_warmup(optim, peak, end, warmup, drops)
    if hold and optim.cycle:
        cycles = cyclic(optim.cycle_lr, optim.floor, max(steps(optim.cycle), 1))
        later = total_steps - hold
        after = optax.join_schedules([after, lambda step: cycles(step + later)], [end])
    if not warmup:
        return after
    if optim.schedule == "one_cycle":
        rise = optax.cosine_decay_schedule(peak * (1 - 1 / 25), warmup)
        return optax.join_schedules([lambda step: peak - rise(step), after], [warmup])
    # The first step already moves: step s of the warmup has (s + 1) / (warmup + 1) of the peak.
    ramp = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([ramp, after], [warmup])


def _check_hold(optim: OptimConfig, hold: int, warmup: int, total_steps: int) -> None:
    if warmup + hold >= total_steps:
        raise ConfigError(
            f"optim.hold {optim.hold!r} is {hold} steps: with optim.warmup {optim.warmup!r}, must "
            f"be shorter than the run ({total_steps} steps)"
        )


def cyclic(start: float, end: float, length: int) -> optax.Schedule:
    """Step -> rate that falls linearly in cycles of `length` steps, as in SWA.

    Izmailov 2018, arXiv:1803.05407, section 3.1: (1 - t) start + t end, with t = (s mod c + 1) / c.
    A cycle ends where the number of steps done is a multiple of its length: with `ema_every` of the
    same length, the weights at the end of each cycle are averaged.

    Examples:
      >>> [round(float(cyclic(0.5, 0.1, 4)(s)), 3) for s in range(5)]
      [0.4, 0.3, 0.2, 0.1, 0.4]
    """

    def rate(step: jax.Array | int) -> jax.Array:
        share = (jnp.asarray(step) % length + 1) / length
        return (1 - share) * start + share * end

    return rate


def peak_rate(config: RunConfig) -> float:
    """`optim.lr`, scaled from `optim.lr_batch` to the batch size as `optim.scaling` says.

    Examples:
      >>> from train.config import OptimConfig
      >>> peak_rate(RunConfig(batch_size=1024, optim=OptimConfig(lr=0.1)))
      0.4
      >>> peak_rate(RunConfig(batch_size=1024, optim=OptimConfig(lr=0.1, scaling="sqrt")))
      0.2
    """
    optim = config.optim
    if not optim.lr_batch:
        return optim.lr
    if optim.scaling == "sqrt":
        return optim.lr * math.sqrt(config.batch_size / optim.lr_batch)
    return optim.lr * config.batch_size / optim.lr_batch


def _after_warmup(
    optim: OptimConfig, peak: float, length: int, warmup: int, drops: Sequence[int]
) -> optax.Schedule:
    """The schedule of the `length` steps after the warmup; `drops`: milestones after it."""
    if optim.schedule in ("cosine", "one_cycle"):
        return optax.cosine_decay_schedule(peak, length, optim.floor / peak)
    if optim.schedule == "linear":
        return optax.linear_schedule(peak, optim.floor, length)
    if optim.schedule == "polynomial":
        return optax.polynomial_schedule(peak, optim.floor, optim.power, length)
    if optim.schedule == "inverse_sqrt":
        start = max(warmup, 1)
        return lambda step: jnp.maximum(peak * jnp.sqrt(start / (start + step)), optim.floor)
    if optim.schedule == "step":
        factors = {at: optim.gamma ** drops.count(at) for at in drops}
        return optax.piecewise_constant_schedule(peak, factors)
    return optax.constant_schedule(peak)


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
