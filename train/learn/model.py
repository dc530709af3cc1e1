"""The network of a config."""

from dataclasses import replace

import jax.numpy as jnp
from jax.sharding import Mesh

from resnet_jax import Classifier, create_model
from train.config import ConfigError, RunConfig
from train.distributed.mesh import check_batch_size

DTYPES = {"bf16": jnp.bfloat16, "fp16": jnp.float16, "fp32": jnp.float32}
"""Of activations, by `precision`."""


def make_model(config: RunConfig, num_classes: int, **options: bool) -> Classifier:
    """The network of a config, after `resolve_norm_groups`.

    Args:
      options: further arguments of `resnet_jax.create_model`, such as `fuse_norm`.

    Raises:
      ConfigError: options that contradict each other, such as `norm_group_size` without BatchNorm.
    """
    assert config.norm_group_size != "device", "resolve_norm_groups comes first"
    try:
        return create_model(
            config.model.name,
            num_classes,
            dtype=DTYPES[config.precision],
            norm_group_size=config.norm_group_size,
            scan=config.scans,
            **config.model.changes,
            **options,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def resolve_norm_groups(config: RunConfig, mesh: Mesh) -> RunConfig:
    """`config` with the number of examples on a device in place of `norm_group_size` "device".

    Raises:
      ConfigError: the devices do not divide the batch.
    """
    if config.norm_group_size != "device":
        return config
    check_batches(config, mesh)
    return replace(config, norm_group_size=config.micro_batch_size // mesh.size)


def check_batches(config: RunConfig, mesh: Mesh) -> None:
    """Raises `ConfigError` if the devices do not divide the batch, or its micro-batches."""
    check_batch_size("batch_size", config.batch_size, mesh)
    parts = config.optim.accumulate
    if config.micro_batch_size % mesh.size:
        raise ConfigError(
            f"optim.accumulate {parts}: a device has {config.batch_size // mesh.size} examples of "
            f"batch_size {config.batch_size}, which {parts} does not divide"
        )
