"""Every option of a run, each with one home, checked when it is built. Nothing here imports JAX."""

from train.config.schema import *  # noqa: F403
