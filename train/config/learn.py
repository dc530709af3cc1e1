"""The options of learning: `optim.*` and `mix.*`."""

from dataclasses import dataclass
from typing import Literal

from train.config.base import check, check_duration, check_types, is_finite


@dataclass(frozen=True)
class MixConfig:
    """What is done to targets and images on the device."""

    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over the classes."""
    smooth_over: Literal["all", "others"] = "all"
    """The classes that it is spread over: all (Szegedy 2016, section 7), or all but the label
    (He 2019, equation 4)."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution (Zhang 2018), such as 0.2; 0: off."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta distribution (Yun 2019), such as 1; 0: off."""
    probability: float = 1.0
    """Probability that a batch, or an example, is mixed at all."""
    switch: float = 0.5
    """Probability of CutMix rather than mixup, where both are on."""
    per: Literal["batch", "example"] = "batch"
    """Whether the draws of mixup and CutMix are one of a batch or one of each example."""
    off: str = ""
    """Length of the run's end without mixup and CutMix: "15ep", "1000st", "10%"; '': none."""
    cutout: int = 0
    """Side in pixels of a square that is set to the mean (DeVries 2017: 16 on CIFAR-10); 0: off."""
    erasing: float = 0.0
    """Probability that a rectangle of an image is erased (Zhong 2017)."""
    erasing_area: tuple[float, float] = (0.02, 1 / 3)
    """Range of that rectangle's share of the image."""
    erasing_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Range of its height / width."""
    erasing_fill: Literal["constant", "channel", "pixel"] = "constant"
    """What it is filled with: the mean, or N(0, 1) drawn for each channel or each value."""

    def __post_init__(self) -> None:
        check_types(self, "mix.")
        value = self.label_smoothing
        check("mix.label_smoothing", value, 0 <= value < 1, "must be in [0, 1)")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            check(f"mix.{name}", value, value >= 0 and is_finite(value), "must be at least 0")
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
        good = 0 < low <= high and is_finite(high)
        check("mix.erasing_aspect", self.erasing_aspect, good, "needs 0 < low <= high")

    @property
    def mixes(self) -> bool:
        """Whether examples are mixed."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning rate."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or Adam."""
    lr: float = 0.1
    """Peak learning rate for a batch of `lr_batch` examples."""
    lr_batch: int = 256
    """The rate used is lr * batch_size / lr_batch (linear scaling, Goyal 2017); 0: lr as it is."""
    momentum: float = 0.9
    """SGD's momentum; Adam's beta 1."""
    nesterov: bool = False
    """Nesterov's momentum (Adam: NAdam)."""
    beta2: float = 0.999
    """Adam's second-moment decay."""
    epsilon: float = 1e-8
    """Adam's, added to the root of the second moment."""
    weight_decay: float = 1e-4
    """Weight decay."""
    decay: Literal["l2", "decoupled"] = "l2"
    """Added to the gradient, or applied beside the update, scaled by the learning rate (AdamW)."""
    decay_mask: Literal["kernels", "all"] = "kernels"
    """What decays: kernels only (no BatchNorm, no bias), or everything."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0: no clipping."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Shape of the learning rate behind the warmup."""
    warmup: str = "0st"
    """Linear warmup from 0: "5ep", "400st" or "5%" of the run."""
    milestones: tuple[str, ...] = ("50%", "75%")
    """Where the step schedule multiplies the rate by `gamma`: as warmup, counted from the start."""
    gamma: float = 0.1
    """The step schedule's factor."""

    def __post_init__(self) -> None:
        check_types(self, "optim.")
        check("optim.lr", self.lr, self.lr > 0, "must be positive")
        check("optim.lr", self.lr, is_finite(self.lr), "must be finite")
        check("optim.lr_batch", self.lr_batch, self.lr_batch >= 0, "must be at least 0")
        for name in ("momentum", "beta2"):
            value = getattr(self, name)
            check(f"optim.{name}", value, 0 <= value < 1, "must be in [0, 1)")
        for name in ("weight_decay", "clip", "epsilon", "gamma"):
            value = getattr(self, name)
            check(f"optim.{name}", value, value >= 0, "must be at least 0")
            check(f"optim.{name}", value, is_finite(value), "must be finite")
        check_duration("optim.warmup", self.warmup, share=True, positive=False)
        is_whole = self.warmup.endswith("%") and float(self.warmup[:-1]) >= 100
        check("optim.warmup", self.warmup, not is_whole, "must be shorter than the run")
        for milestone in self.milestones:
            check_duration("optim.milestones", milestone, share=True, positive=False)
