"""Update rules: the optax chain of a run, and which parameters decay."""

from typing import Any

import jax
import optax

from resnet_jax.scan import STACKED
from train.config import OptimConfig
from train.learn.paths import label_tree


def decay_mask(params: optax.Params) -> optax.Params:
    """True for kernels; biases and BatchNorm's parameters do not decay (Bag of Tricks, 3.1)."""
    return label_tree(params, [("(.*/)?kernel", True)], default=False, allow_unmatched=True)


def per_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a transformation that needs whole layers to each block of a stack separately.

    Args:
      transform: without a state, and with statistics of whole arrays, such as
        `optax.scale_by_trust_ratio`. Of stacked blocks (`resnet_jax.scan`) it sees one at a time,
        as in a network without `scan`.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        def layer(update: jax.Array, param: jax.Array) -> jax.Array:
            return transform.update(update, state, param)[0]

        def leaf(
            path: tuple[jax.tree_util.DictKey, ...], update: jax.Array, param: jax.Array
        ) -> jax.Array:
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
    """`optax.scale_by_learning_rate` that accepts the step of the run.

    `update(..., step=n)` uses schedule(n). Without `step`, it uses its own count of updates, which
    is lower where steps were skipped.
    """
    inner = optax.scale_by_learning_rate(schedule)

    def update(
        updates: optax.Updates,
        state: optax.ScaleByScheduleState,
        params: optax.Params | None = None,
        *,
        step: jax.Array | None = None,
        **_: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        at = state if step is None else state._replace(count=step)
        updates, _ = inner.update(updates, at, params)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(inner.init, update)
