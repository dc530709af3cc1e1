"""Schedules, the decay mask and the optax chain."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from resnet_jax.scan import NAME as STACKED
from train.config import ConfigError, OptimConfig, RunConfig, to_steps


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


def decay_mask(params: optax.Params) -> optax.Params:
    """True for kernels; biases and BatchNorm's parameters do not decay (Bag of Tricks, 3.1)."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def per_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """For one without a state that looks at whole leaves, such as `optax.scale_by_trust_ratio`.

    Of stacked blocks (`resnet_jax.scan`) it looks at one at a time, as in the plain layout.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def layer(update: jax.Array, param: jax.Array) -> jax.Array:
            return transform.update(update, state, param)[0]

        def leaf(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
            stacked = any(key.key == STACKED for key in path)
            return (jax.vmap(layer) if stacked else layer)(update, param)

        return jax.tree.map_with_path(leaf, updates, params), state

    return optax.GradientTransformation(transform.init, update)


def make_optimizer(optim: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clip, then L2, then SGD's momentum or Adam, then decoupled decay, then the learning rate."""
    mask = decay_mask if optim.decay_mask == "kernels" else None
    decay = optax.add_decayed_weights(optim.weight_decay, mask)
    if optim.name == "sgd":
        core = optax.trace(optim.momentum, optim.nesterov)
    else:
        core = optax.scale_by_adam(
            optim.momentum, optim.beta2, optim.epsilon, nesterov=optim.nesterov
        )
    return optax.chain(
        optax.clip_by_global_norm(optim.clip) if optim.clip else optax.identity(),
        decay if optim.decay == "l2" else optax.identity(),
        core,
        decay if optim.decay == "decoupled" else optax.identity(),
        scale_by_schedule(schedule),
    )


def scale_by_schedule(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_learning_rate` that can be told the step of the run.

    `update(..., step=n)` takes schedule(n). Without it, it counts its own updates, which are fewer
    where steps were skipped.
    """
    inner = optax.scale_by_learning_rate(schedule)

    def update(updates: Any, state: Any, params: Any = None, *, step: Any = None, **_: Any) -> Any:
        at = state if step is None else state._replace(count=step)
        updates, _ = inner.update(updates, at, params)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(inner.init, update)


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
