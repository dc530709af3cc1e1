"""The number of values behind each BatchNorm statistic, checked before compilation."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.norm import BatchNorm, values_per_channel
from train.config import ConfigError
from train.run.parts import Run

FEW = 8
"""Values per channel; from fewer, the standard deviation has an error of more than a quarter."""


def values_by_layer(model: nn.Module, batch_size: int, image_size: int) -> dict[str, int]:
    """Values per channel in a group, for each BatchNorm layer that is trained.

    The network is traced, not compiled.

    Raises:
      ValueError: the network cannot take such images, or a layer has one value per channel.
    """
    found: dict[str, int] = {}

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        norm = context.module
        trains = isinstance(norm, BatchNorm) and not norm.frozen and kwargs.get("train")
        if trains and context.method_name == "__call__":
            found["/".join(norm.path)] = values_per_channel(args[0].shape, norm.group_size)
        return call(*args, **kwargs)

    def step(key: jax.Array, images: jax.Array) -> object:
        variables = model.init(key, images[:1], train=False)
        apply = functools.partial(model.apply, variables, mutable=["batch_stats"])
        return apply(images, train=True, rngs={"dropout": key})

    images = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), jnp.float32)
    with nn.intercept_methods(note):
        jax.eval_shape(step, jax.random.key(0), images)
    return found


def check_statistics(run: Run) -> str | None:
    """A warning if a layer's statistics come from less than `FEW` values per channel.

    Raises:
      ConfigError: a layer has one value per channel; or the network cannot take the run's images.
    """
    config, size = run.config, run.image_sizes[0].size  # the smallest
    group = config.norm_group_size or config.micro_batch_size
    assert isinstance(group, int), "a Run has resolved it"
    if group >= FEW:
        return None
    name = "augment.size_start" if config.augment.size_start else "data.image_size"
    sizes = f"{name} {size}, batch_size {config.batch_size}"
    if config.optim.accumulate > 1:
        sizes += f", optim.accumulate {config.optim.accumulate}"
    if config.norm_group_size:
        sizes += f", norm_group_size {group}"
    try:
        found = values_by_layer(run.model, config.micro_batch_size, size)
    except ValueError as error:
        raise ConfigError(f"{config.model.name} at {sizes}: {error}") from None
    few = [path for path, values in found.items() if values < FEW]
    if not few:
        return None
    return (
        f"{sizes}: {len(few)} of {len(found)} BatchNorm layers have statistics of "
        f"{min(found.values())} to {FEW - 1} values per channel, the first is {few[0]}. They are "
        "noisy: a larger batch_size or data.image_size, or --model.norm group, would help"
    )
