"""A run, from its config to its report. `train.run.fit.fit` is the way in.

Modules:
  fit: `fit`, the phases of a run.
  parts: `Run`, the data, network, optimiser and steps of a config.
  initial_state: the variables before the first step.
  directory: the checkpoints and config.json in the directory of a run.
  provenance: devices, versions, commit and command of a result.
  preprocessing: the preprocessing that pretrained weights expect.
  pixels: the mean and the whitening that are measured on the training images.
  checks: all checks before compilation.
  class_weights: weights by the frequency of each class.
  norm_groups, sizes: checks of BatchNorm statistics, of images and of batches.
  resume, data_changes: checks of a directory and of the data when a run resumes.
  start_screen: one line on each part of a run.
  preview: training images as the network sees them.
  trainer: `Trainer`, the loop over the steps.
  dispatch: steps that are sent to the devices, one by one or several at once.
  periods: when to log, evaluate and save.
  time_budget: the number of steps for a duration in hours.
  early_stop: ends a run whose evaluations do not improve.
  evaluate: exact evaluation.
  precise: BatchNorm statistics of many training batches, for the evaluation at the end.
  training_log, metrics, throughput, unreadable, nonfinite: what a training records.
  progress, eta: what the terminal shows.
  memory, out_of_memory: the memory of a step, and advice when it does not fit.
"""

from typing import TYPE_CHECKING

from train.lazy import lazy_names

if TYPE_CHECKING:
    from train.run.directory import read_class_names as read_class_names
    from train.run.directory import read_config as read_config
    from train.run.directory import read_record as read_record
    from train.run.evaluate import Evaluation as Evaluation
    from train.run.evaluate import evaluate_checkpoint as evaluate_checkpoint
    from train.run.parts import Run as Run
    from train.run.trainer import Trainer as Trainer

__getattr__ = lazy_names(
    __name__,
    {
        "directory": ["read_class_names", "read_config", "read_record"],
        "evaluate": ["Evaluation", "evaluate_checkpoint"],
        "parts": ["Run"],
        "trainer": ["Trainer"],
    },
)
