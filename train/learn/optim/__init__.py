"""The optimiser: learning-rate and averaging schedules (`schedules`), update rules (`optimizers`).

`train.learn.paths` names parameters for both.
"""

from train.learn.optim.optimizers import (
    decay_mask,
    make_optimizer,
    per_layer,
    scale_by_schedule,
)
from train.learn.optim.schedules import ema_decay_at, ema_warmup, make_schedule, peak_rate

__all__ = [
    "decay_mask",
    "ema_decay_at",
    "ema_warmup",
    "make_optimizer",
    "make_schedule",
    "peak_rate",
    "per_layer",
    "scale_by_schedule",
]
