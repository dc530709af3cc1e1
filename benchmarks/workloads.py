"""Workloads: a recipe, or a network with the recipe for its image size."""

import difflib
from dataclasses import replace

import numpy as np

from resnet_jax.zoo import ZOO, image_size
from train.config import ConfigError, ModelConfig, RunConfig
from train.data.sources import Splits
from train.plan.planner import data_facts, synthetic_splits
from train.recipes import all_recipes

FORM = "NAME[,BATCH[,PIXELS]]"


class Unsupported(Exception):
    """A system does not have the network."""


def read_case(text: str) -> RunConfig:
    """The config of a workload such as "digits", "imagenet-resnet50,256", "resnet50,16,224".

    A network for images of CIFAR's size trains like `cifar10-resnet20`, others like
    `imagenet-resnet50`.

    Raises:
      ConfigError: no such recipe or network; a size is not a positive number.
    """
    name, *sizes = text.split(",")
    if len(sizes) > 2 or not all(size.isdigit() and int(size) for size in sizes):
        raise ConfigError(
            f"case {text!r}: write {FORM} with positive numbers, such as resnet50,16,224"
        )
    config = _config(name)
    if sizes:
        config = replace(config, batch_size=int(sizes[0]))
    if len(sizes) == 2:
        config = replace(config, data=replace(config.data, image_size=int(sizes[1])))
    return config


def _config(name: str) -> RunConfig:
    recipes = all_recipes()
    if name in recipes:
        return recipes[name]
    if name not in ZOO:
        near = difflib.get_close_matches(name, [*recipes, *ZOO], n=3, cutoff=0.6) or list(recipes)
        raise ConfigError(
            f"case {name!r}: neither a recipe nor a network: did you mean {', '.join(near)}? "
            "`resnet-jax recipes` and `resnet-jax models` list all"
        )
    size = image_size(name)
    base = recipes["cifar10-resnet20" if size == 32 else "imagenet-resnet50"]
    data = replace(base.data, image_size=size)
    return replace(base, recipe=name, model=ModelConfig(name=name), data=data)


def facts(config: RunConfig) -> Splits:
    """The size and classes of the config's data, or synthetic ones; reads no example."""
    try:
        return data_facts(config.data)
    except ConfigError:  # for example, data.dir is not set
        return synthetic_splits(config.data, config.data.examples, config.data.examples, 1000)


def describe(config: RunConfig) -> dict[str, object]:
    """The columns of a row that describe the workload."""
    return {
        "case": f"{config.recipe},{config.batch_size},{config.data.image_size}",
        "network": config.model.name,
        "batch_size": config.batch_size,
        "image_size": config.data.image_size,
        "precision": config.precision,
    }


def random_batch(config: RunConfig, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 images [B, S, S, 3] and int32 labels [B]."""
    rng = np.random.default_rng(0)
    size = config.data.image_size
    images = rng.integers(0, 256, (config.batch_size, size, size, 3), np.uint8)
    return images, rng.integers(0, classes, config.batch_size).astype(np.int32)
