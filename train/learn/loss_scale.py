"""Dynamic loss scaling for float16 (Micikevicius 2018, arXiv:1710.03740, section 3.2).

float16 has no numbers below 6e-8, where many gradients are, and none above 65504. The loss is
multiplied by a scale before the gradient is computed, which is divided by it afterwards. A scale
that is too large makes a gradient infinite: then the step is skipped and the scale is halved.
"""

import jax
import jax.numpy as jnp

LossScale = dict[str, jax.Array]
"""`scale`, float32, a power of 2; `good`, int32: steps since it was changed."""

START = 2.0**15
PERIOD = 2000
LARGEST = 2.0**24


def first_scale(scale: float = START) -> LossScale:
    """The loss scale before the first step."""
    return {"scale": jnp.float32(scale), "good": jnp.int32(0)}


def next_scale(state: LossScale, finite: jax.Array, period: int = PERIOD) -> LossScale:
    """The loss scale after a step: halved, down to 1, if its gradient is not finite.

    It is doubled after `period` finite steps in a row, up to 2^24.

    >>> state = first_scale(8.0)
    >>> float(next_scale(state, jnp.bool(False))["scale"])
    4.0
    >>> for _ in range(2):
    ...     state = next_scale(state, jnp.bool(True), period=2)
    >>> float(state["scale"]), int(state["good"])
    (16.0, 0)
    """
    scale, good = state["scale"], state["good"] + 1
    doubles = good >= period
    grown = jnp.where(doubles, jnp.minimum(2 * scale, LARGEST), scale)
    return {
        "scale": jnp.where(finite, grown, jnp.maximum(scale / 2, 1.0)),
        "good": jnp.where(finite & ~doubles, good, 0),
    }


def is_overflow(state: LossScale, finite: jax.Array) -> jax.Array:
    """Whether a step is not finite because of its scale: at 1, there is another reason."""
    return ~finite & (state["scale"] > 1)
