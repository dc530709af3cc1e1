"""Evaluating a run, and classifying images.

Modules:
  inference: evaluation of a checkpoint, and classes of images.
  predictions: the files that `predict` reads, and its output.
"""

from typing import TYPE_CHECKING

from train.lazy import lazy_names

if TYPE_CHECKING:
    from train.inference.inference import Answer as Answer
    from train.inference.inference import Prediction as Prediction
    from train.inference.inference import classify as classify
    from train.inference.inference import evaluate_run as evaluate_run
    from train.inference.inference import read_weights as read_weights

__getattr__ = lazy_names(
    __name__,
    {
        "inference": ["Answer", "Prediction", "classify", "evaluate_run", "read_weights"],
    },
)
