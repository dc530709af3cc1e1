"""The options of the loss, `loss.*`."""

from dataclasses import dataclass
from typing import Literal

from train.config.base import check, check_types, is_finite

Rule = Literal["none", "inverse", "sqrt_inverse"]


@dataclass(frozen=True)
class LossConfig:
    """What training minimises: the mean loss of the examples, plus the penalties."""

    name: Literal["cross_entropy", "bce", "focal"] = "cross_entropy"
    """Softmax cross-entropy; binary cross-entropy of each class (sigmoid); or the focal loss (Lin
    2017)."""
    threshold: float | None = None
    """Targets of bce above this become 1, the others 0, as in timm; None: soft targets."""
    reduction: Literal["mean", "sum"] = "mean"
    """Mean or sum over the classes, of bce, and of focal with data.multi_label."""
    gamma: float = 2.0
    """Exponent of the focal loss; 0: it is the cross-entropy."""
    class_weights: Rule | tuple[float, ...] = "none"
    """Weight of each class in the loss: by its inverse frequency in the training split, by the
    square root of that, or one number for each class."""
    l1: float = 0.0
    """Coefficient of an L1 penalty: l1 * sum |w| is added to the loss. l1 and l2: elastic net."""
    l1_on: str = "(.*/)?kernel"
    """Parameters with the L1 penalty: a regular expression over their paths."""
    l2: float = 0.0
    """Coefficient of an L2 penalty: l2 * sum w^2 is added to the loss. Its gradient is that of a
    weight decay of 2 * l2."""
    l2_on: str = "(.*/)?kernel"
    """Parameters with the L2 penalty: a regular expression over their paths."""

    def __post_init__(self) -> None:
        check_types(self, "loss.")
        if self.threshold is not None:
            good = 0 <= self.threshold < 1
            check("loss.threshold", self.threshold, good, "must be in [0, 1)")
        for name in ("gamma", "l1", "l2"):
            value = getattr(self, name)
            check(f"loss.{name}", value, value >= 0, "must be at least 0")
            check(f"loss.{name}", value, is_finite(value), "must be finite")
        weights = self.class_weights
        if isinstance(weights, tuple):
            good = len(weights) > 0 and is_finite(*weights) and min(weights) > 0
            check("loss.class_weights", weights, good, "needs one positive number for each class")
