"""The options of learning: `optim.*` and `mix.*`."""

from dataclasses import dataclass
from typing import Literal

from train.config.base import check, check_duration, check_types, is_finite


@dataclass(frozen=True)
class MixConfig:
    """What is done to targets and images on the device."""

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes (Szegedy 2016, section 7)."""

    def __post_init__(self) -> None:
        check_types(self, "mix.")
        value = self.label_smoothing
        check("mix.label_smoothing", value, 0 <= value < 1, "must be in [0, 1)")


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
