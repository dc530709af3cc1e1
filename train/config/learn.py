"""The options of the optimiser, `optim.*`, and of targets and mixing, `mix.*`."""

import math
from dataclasses import dataclass
from typing import Literal

from train.config.base import check, check_duration, check_types, is_finite


@dataclass(frozen=True)
class MixConfig:
    """Changes to targets and images on the device."""

    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over classes; see `smooth_over`."""
    smooth_over: Literal["all", "others"] = "all"
    """Classes for label smoothing: all (Szegedy 2016, section 7), or all except the label (He 2019,
    equation 4)."""
    mixup: float = 0.0
    """Alpha of the Beta distribution of mixup (Zhang 2018), such as 0.2; 0: off."""
    cutmix: float = 0.0
    """Alpha of the Beta distribution of CutMix (Yun 2019), such as 1; 0: off."""
    probability: float = 1.0
    """Probability of mixup or CutMix for a batch, or for each example (see `per`)."""
    switch: float = 0.5
    """Probability of CutMix instead of mixup, if both are on."""
    per: Literal["batch", "example"] = "batch"
    """Whether mixup and CutMix are sampled once for the whole batch, or for each example."""
    off: str = ""
    """Turn mixup and CutMix off for this long at the end of the run: "15ep", "1000st" or "10%"; '':
    never."""
    cutout: int = 0
    """Side of a square that is set to the mean, in pixels (DeVries 2017; CIFAR-10: 16); 0: off."""
    erasing: float = 0.0
    """Probability of erasing a rectangle of an image (Zhong 2017)."""
    erasing_area: tuple[float, float] = (0.02, 1 / 3)
    """Range of the erased share of the image's area."""
    erasing_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Range of the erased rectangle's height / width."""
    erasing_fill: Literal["constant", "channel", "pixel"] = "constant"
    """Values of the erased rectangle: the mean, or N(0, 1) sampled per channel or per value."""

    def __post_init__(self) -> None:
        check_types(self, "mix.")
        value = self.label_smoothing
        check("mix.label_smoothing", value, 0 <= value < 1, "must be in [0, 1)")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            check(f"mix.{name}", value, value >= 0, "must be at least 0")
            check(f"mix.{name}", value, is_finite(value), "must be finite")
        for name in ("probability", "switch", "erasing"):
            value = getattr(self, name)
            check(f"mix.{name}", value, 0 <= value <= 1, "must be in [0, 1]")
        check("mix.cutout", self.cutout, self.cutout >= 0, "must be at least 0")
        check_duration("mix.off", self.off, share=True, off=True)
        low, high = self.erasing_area
        check(
            "mix.erasing_area",
            self.erasing_area,
            0 < low <= high <= 1,
            "needs 0 < low <= high <= 1",
        )
        low, high = self.erasing_aspect
        check("mix.erasing_aspect", self.erasing_aspect, 0 < low <= high, "needs 0 < low <= high")
        check("mix.erasing_aspect", self.erasing_aspect, is_finite(high), "must be finite")

    @property
    def mixes(self) -> bool:
        """Whether examples are mixed."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning rate."""

    name: Literal["sgd", "adamw", "rmsprop", "lars", "lamb"] = "sgd"
    """SGD with momentum, Adam, RMSProp, or one with layer-wise rates for large batches."""
    lr: float = 0.1
    """Peak learning rate for a batch of `lr_batch` examples."""
    lr_batch: int = 256
    """The peak rate is lr * batch_size / lr_batch (linear scaling, Goyal 2017); 0: it is lr."""
    momentum: float = 0.9
    """Momentum of sgd, rmsprop and lars; beta 1 of adamw and lamb."""
    nesterov: bool = False
    """Nesterov momentum (with Adam: NAdam)."""
    beta2: float = 0.999
    """Decay of the second moment (Adam's beta 2): adamw, lamb and rmsprop."""
    epsilon: float = 1e-8
    """Added to the square root of the second moment."""
    trust: float = 0.001
    """The trust coefficient of lars."""
    weight_decay: float = 1e-4
    """Coefficient of the weight decay; see `decay`."""
    decay: Literal["l2", "decoupled"] = "l2"
    """l2: the decay is added to the gradient; decoupled: to the update, times the learning rate
    (AdamW)."""
    decay_mask: Literal["kernels", "all"] = "kernels"
    """Parameters with weight decay: kernels only (no norm, no bias), or all."""
    clip: float = 0.0
    """Clip the gradient to this global norm; 0: no clipping."""
    clip_value: float = 0.0
    """Clip each value of the gradient to this magnitude, before `clip`; 0: no clipping."""
    sam: float = 0.0
    """Rho of sharpness-aware minimisation (SAM, Foret 2021, arXiv:2010.01412), such as 0.05: the
    gradient at a distance of rho uphill, at twice the time of a step; 0: off."""
    accumulate: int = 1
    """Number of micro-batches of a step, whose gradients are averaged: less memory for the same
    batch_size. BatchNorm, mixing and dropout see one micro-batch at a time."""
    scaling: Literal["linear", "sqrt"] = "linear"
    """How the rate grows with the batch size: in proportion, or with its square root (Krizhevsky
    2014, arXiv:1404.5997)."""
    schedule: Literal[
        "cosine", "step", "linear", "polynomial", "inverse_sqrt", "one_cycle", "constant"
    ] = "cosine"
    """Shape of the learning rate after the warmup."""
    warmup: str = "0st"
    """Duration of the linear warmup from 0: "5ep", "400st" or "5%" of the run."""
    milestones: tuple[str, ...] = ("50%", "75%")
    """When the step schedule multiplies the rate by `gamma`, counted from the start of the run."""
    gamma: float = 0.1
    """Factor of the step schedule at each milestone."""
    power: float = 2.0
    """Exponent of the polynomial schedule."""
    floor: float = 0.0
    """The learning rate at the end of cosine, linear, polynomial and one_cycle, and the lowest one
    of inverse_sqrt."""
    hold: str = ""
    """Stay at `floor` for this long at the end of the run ("25%", "40ep"), such as for swa_start;
    '': no."""
    cycle: str = ""
    """During `hold`, fall from `cycle_lr` to `floor` again and again, each time for this long
    ("1ep"), instead of staying there; '': no."""
    cycle_lr: float = 0.05
    """The learning rate at the start of each cycle."""

    def __post_init__(self) -> None:
        check_types(self, "optim.")
        check("optim.lr", self.lr, self.lr > 0, "must be positive")
        check("optim.lr", self.lr, is_finite(self.lr), "must be finite")
        check("optim.lr_batch", self.lr_batch, self.lr_batch >= 0, "must be at least 0")
        for name in ("momentum", "beta2"):
            value = getattr(self, name)
            check(f"optim.{name}", value, 0 <= value < 1, "must be in [0, 1)")
        for name in (
            "weight_decay",
            "clip",
            "clip_value",
            "sam",
            "gamma",
            "floor",
            "trust",
        ):
            value = getattr(self, name)
            check(f"optim.{name}", value, value >= 0, "must be at least 0")
            check(f"optim.{name}", value, is_finite(value), "must be finite")
        check("optim.accumulate", self.accumulate, self.accumulate >= 1, "must be at least 1")
        for name in ("power", "epsilon"):
            value = getattr(self, name)
            check(f"optim.{name}", value, value > 0, "must be positive")
            check(f"optim.{name}", value, is_finite(value), "must be finite")
        check_duration("optim.warmup", self.warmup, share=True, positive=False)
        is_whole = self.warmup.endswith("%") and float(self.warmup[:-1]) >= 100
        check("optim.warmup", self.warmup, not is_whole, "must be shorter than the run")
        check_duration("optim.hold", self.hold, share=True, off=True)
        check(
            "optim.hold", self.hold, not self.hold or self.floor > 0, "needs an optim.floor above 0"
        )
        check_duration("optim.cycle", self.cycle, off=True)
        good = not self.cycle or self.floor < self.cycle_lr < math.inf
        check("optim.cycle_lr", self.cycle_lr, good, f"must be above optim.floor {self.floor:g}")
        for milestone in self.milestones:
            check_duration("optim.milestones", milestone, share=True, positive=False)
