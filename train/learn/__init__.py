"""Learning: the training step and its parts. `train.learn.step` is the one to fork.

Modules:
  step: the training step and the evaluation step.
  state: `TrainState`, the arrays of a training.
  model: the network of a config.
  gradients: gradients over micro-batches, and at a perturbed point (SAM).
  loss_scale: dynamic loss scaling for float16.
  prepare: uint8 images and labels to the inputs of the network and the loss.
  whiten: PCA and ZCA whitening: pure functions.
  precise_bn: BatchNorm statistics of many batches: pure functions.
  tasks: losses and metrics.
  losses: cross-entropy, BCE, focal loss, class weights, penalties: pure functions.
  mix: mixup, CutMix, erasing, label smoothing: pure functions on the device.
  optim: schedules and update rules.
  paths: rules that name parameters by their paths.
"""

from typing import TYPE_CHECKING

from train.lazy import lazy_names

if TYPE_CHECKING:
    from train.learn.model import make_model as make_model
    from train.learn.optim import make_optimizer as make_optimizer
    from train.learn.optim import make_schedule as make_schedule
    from train.learn.paths import label_tree as label_tree
    from train.learn.paths import value_tree as value_tree
    from train.learn.prepare import make_prepare as make_prepare
    from train.learn.state import TrainState as TrainState
    from train.learn.state import create_state as create_state
    from train.learn.step import make_eval_step as make_eval_step
    from train.learn.step import make_step as make_step
    from train.learn.step import make_train_step as make_train_step

__getattr__ = lazy_names(
    __name__,
    {
        "model": ["make_model"],
        "optim": ["make_optimizer", "make_schedule"],
        "paths": ["label_tree", "value_tree"],
        "prepare": ["make_prepare"],
        "state": ["TrainState", "create_state"],
        "step": ["make_eval_step", "make_step", "make_train_step"],
    },
)
