"""Update rules: the optax chain of a run, and which parameters decay."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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


def scale_by_lars(weight_decay: float, trust: float = 0.001) -> optax.GradientTransformation:
    """Layer-wise rates (You 2017, arXiv:1708.03888): g -> t |w| / (|g| + d |w|) (g + d w).

    The trust coefficient is t, the weight decay d. The ratio is 1 where |w| or |g| is 0. Follow it
    with the learning rate and then with momentum, as the paper does; `optax.lars` puts the rate
    after the momentum and divides by |g + d w|.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        def layer(g: jax.Array, w: jax.Array) -> jax.Array:
            norm, size = jnp.linalg.norm(w.ravel()), jnp.linalg.norm(g.ravel())
            known = (norm > 0) & (size > 0)
            below = jnp.where(known, size + weight_decay * norm, 1.0)
            return jnp.where(known, trust * norm / below, 1.0) * (g + weight_decay * w)

        return jax.tree.map(layer, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(optim: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping by value, then by norm; the update rule `optim.name`; the learning rate.

    - sgd, adamw, rmsprop: the decay is added to the gradient (l2) or to the update (decoupled).
    - lars: `scale_by_lars`, the learning rate, then momentum (You 2017).
    - lamb: Adam's update plus the decay, times |w| / |update| of each layer (You 2020,
      arXiv:1904.00962).

    What does not decay (`optim.decay_mask`) has no layer-wise rate either, as in the authors' code.
    """
    mask = decay_mask if optim.decay_mask == "kernels" else None
    decay = optax.add_decayed_weights(optim.weight_decay, mask)
    rate = scale_by_schedule(schedule)
    momentum = optax.trace(optim.momentum, optim.nesterov)
    if optim.name == "lars":
        layers = per_layer(scale_by_lars(optim.weight_decay, optim.trust))
        rule = [_where(mask, layers), rate, momentum]
    elif optim.name == "lamb":
        adam = optax.scale_by_adam(optim.momentum, optim.beta2, optim.epsilon)
        layers = per_layer(optax.scale_by_trust_ratio())
        rule = [adam, decay, _where(mask, layers), rate]
    else:
        rule = [
            decay if optim.decay == "l2" else optax.identity(),
            _direction(optim, momentum),
            decay if optim.decay == "decoupled" else optax.identity(),
            rate,
        ]
    clip = optax.clip_by_global_norm(optim.clip) if optim.clip else optax.identity()
    if optim.clip_value:
        clip = optax.chain(optax.clip(optim.clip_value), clip)
    return optax.chain(clip, *rule)


def _direction(
    optim: OptimConfig, momentum: optax.GradientTransformation
) -> optax.GradientTransformation:
    if optim.name == "sgd":
        return momentum
    if optim.name == "rmsprop":  # torch's form, not TensorFlow's, which adds inside the root
        rms = optax.scale_by_rms(optim.beta2, optim.epsilon, eps_in_sqrt=False)
        return optax.chain(rms, momentum)
    return optax.scale_by_adam(optim.momentum, optim.beta2, optim.epsilon, nesterov=optim.nesterov)


def _where(
    mask: Callable[[optax.Params], optax.Params] | None, layers: optax.GradientTransformation
) -> optax.GradientTransformation:
    return layers if mask is None else optax.masked(layers, mask)


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
