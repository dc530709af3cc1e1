"""Rematerialisation: which activations of a loop over blocks are saved for the backward pass."""

from functools import partial

import jax
from jax.ad_checkpoint import checkpoint_name

_NAME = "kept"

save_for_backward = partial(checkpoint_name, name=_NAME)
"""Marks a value that a loop over blocks saves if the backward pass needs it.

Convolutions and sums over maps are marked. Everything else is computed again, which costs less than
writing and reading it. Without a loop the mark has no effect: XLA itself decides what to save.
"""

SAVE_POLICY = jax.checkpoint_policies.save_only_these_names(_NAME)
"""The policy of `jax.checkpoint` that saves the marked values."""
