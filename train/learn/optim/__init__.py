"""The optimiser: learning-rate and averaging schedules (`schedules`), update rules (`optimizers`).

`train.learn.paths` names parameters for both.
"""

from train.learn.optim.optimizers import (
    decay_mask,
    make_optimizer,
    per_layer,
    scale_by_schedule,
)
from train.learn.optim.schedules import ema_decay_at, ema_warmup, make_schedule

__all__ = [
    "decay_mask",
    "ema_decay_at",
    "ema_warmup",
    "make_optimizer",
    "make_schedule",
    "per_layer",
    "scale_by_schedule",
]
