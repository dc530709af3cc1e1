"""What a loop over blocks keeps of each for the backward pass."""

from functools import partial

import jax
from jax.ad_checkpoint import checkpoint_name

_NAME = "kept"

save_for_backward = partial(checkpoint_name, name=_NAME)
"""Marks a value that a loop over blocks keeps, if the backward pass needs it: what convolutions
give, and sums over maps. The rest is computed again, which costs less than writing and reading it.
XLA decides so by itself for blocks that are not in a loop; there a mark is nothing."""

SAVE_POLICY = jax.checkpoint_policies.save_only_these_names(_NAME)
"""The policy for `jax.checkpoint`."""
