"""Evaluating a run, and classifying images.

Modules:
  evaluate: evaluation of a run's checkpoint.
  predict: classes of image files.
  predictions: the files that the `predict` command reads, and its output.
"""

from typing import TYPE_CHECKING

from train.lazy import lazy_names

if TYPE_CHECKING:
    from train.inference.evaluate import evaluate_run as evaluate_run
    from train.inference.evaluate import read_weights as read_weights
    from train.inference.predict import Answer as Answer
    from train.inference.predict import Prediction as Prediction
    from train.inference.predict import classify as classify

__getattr__ = lazy_names(
    __name__,
    {
        "evaluate": ["evaluate_run", "read_weights"],
        "predict": ["Answer", "Prediction", "classify"],
    },
)
