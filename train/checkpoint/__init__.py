"""Checkpoints and weight files.

Modules:
  manager: `Checkpoints`, which saves and restores the state of a run.
  directory: the folder of checkpoints, and which of them are kept.
  reader, restore: reading one checkpoint, each process its own part.
  run_weights: the weights that a run is evaluated with.
  lock: one training at a time in a run directory.
  digests: checksums of arrays, computed on the devices.
  paths: Orbax, in folders of any name.
  weights: pretrained weights from a file, or by their timm name.
"""

from typing import TYPE_CHECKING

from train.lazy import lazy_names

if TYPE_CHECKING:
    from train.checkpoint.manager import Checkpoints as Checkpoints
    from train.checkpoint.manager import Restored as Restored
    from train.checkpoint.run_weights import Weights as Weights
    from train.checkpoint.weights import read_card as read_card

__getattr__ = lazy_names(
    __name__,
    {
        "manager": ["Checkpoints", "Restored"],
        "run_weights": ["Weights"],
        "weights": ["read_card"],
    },
)
