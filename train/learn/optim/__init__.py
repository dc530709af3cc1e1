"""The optimiser: schedules (`schedules`), averages of the weights (`averages`), update rules
(`optimizers`).

`train.learn.paths` names parameters for both.
"""

from train.learn.optim.averages import Average, corrected_decay, equal_decay, make_average
from train.learn.optim.optimizers import (
    decay_mask,
    make_optimizer,
    per_layer,
    scale_by_schedule,
)
from train.learn.optim.schedules import ema_decay_at, ema_warmup, make_schedule, peak_rate

__all__ = [
    "Average",
    "corrected_decay",
    "decay_mask",
    "ema_decay_at",
    "ema_warmup",
    "equal_decay",
    "make_average",
    "make_optimizer",
    "make_schedule",
    "peak_rate",
    "per_layer",
    "scale_by_schedule",
]
