"""Residual networks in Flax linen: `create_model`, `list_models`, and their modules.

Names resolve on first use, so that a program that only validates a configuration
(`resnet_jax.spec`, `resnet_jax.zoo`) does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from resnet_jax.heads.classifier import Classifier, create_model
    from resnet_jax.norm import BatchNorm
    from resnet_jax.resnet import ResNet
    from resnet_jax.scan import stack_blocks, unstack_blocks
    from resnet_jax.spec import ResNetSpec
    from resnet_jax.weights.convert import from_tensors, load_weights, save_weights
    from resnet_jax.weights.files import WeightsError
    from resnet_jax.weights.pretrained import Preprocessing, load_pretrained
    from resnet_jax.zoo import get_spec, list_models

_HOME = {
    "BatchNorm": "norm",
    "Classifier": "heads.classifier",
    "Preprocessing": "weights.pretrained",
    "ResNet": "resnet",
    "ResNetSpec": "spec",
    "WeightsError": "weights.files",
    "create_model": "heads.classifier",
    "from_tensors": "weights.convert",
    "get_spec": "zoo",
    "list_models": "zoo",
    "load_pretrained": "weights.pretrained",
    "load_weights": "weights.convert",
    "save_weights": "weights.convert",
    "stack_blocks": "scan",
    "unstack_blocks": "scan",
}

__all__ = [
    "BatchNorm",
    "Classifier",
    "Preprocessing",
    "ResNet",
    "ResNetSpec",
    "WeightsError",
    "create_model",
    "from_tensors",
    "get_spec",
    "list_models",
    "load_pretrained",
    "load_weights",
    "save_weights",
    "stack_blocks",
    "unstack_blocks",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"resnet_jax.{_HOME[name]}"), name)
    raise AttributeError(f"module 'resnet_jax' has no attribute {name!r}")
