"""The options of a run, checked when a config is built. Nothing here imports JAX."""

from train.config.augment import AugmentConfig
from train.config.base import field_docs, to_steps
from train.config.data import DataConfig
from train.config.learn import MixConfig, OptimConfig
from train.config.loss import LossConfig
from train.config.model import InitConfig, ModelConfig
from train.config.run import CheckpointConfig, EvalConfig, MeshConfig, RunConfig
from train.errors import ConfigError, RunError

__all__ = [
    "AugmentConfig",
    "CheckpointConfig",
    "ConfigError",
    "DataConfig",
    "EvalConfig",
    "InitConfig",
    "LossConfig",
    "MeshConfig",
    "MixConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "RunError",
    "field_docs",
    "to_steps",
]
