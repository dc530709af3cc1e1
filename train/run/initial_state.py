"""The variables of a run before its first step."""

import contextlib
from collections.abc import Iterator

import jax

from resnet_jax import Classifier
from train.config import ConfigError, RunConfig
from train.learn.state import Variables, init_head, init_variables


@contextlib.contextmanager
def explained(config: RunConfig, option: str = "data.image_size", size: int = 0) -> Iterator[None]:
    """Turns the `ValueError` of a network that cannot take images of a size into `ConfigError`."""
    try:
        yield
    except ValueError as error:
        size = size or config.data.image_size
        raise ConfigError(f"{config.model.name} at {option} {size}: {error}") from None


def check_image_size(model: Classifier, config: RunConfig, size: int) -> None:
    """Raises `ConfigError` if the network cannot take the images of `augment.size_start`."""
    with explained(config, "augment.size_start", size):
        jax.eval_shape(lambda: init_variables(model, size, config.seed))


def random_variables(model: Classifier, config: RunConfig) -> Variables:
    """Random variables. Raises `ConfigError`: the network cannot take `data.image_size`."""
    with explained(config):
        return init_variables(model, config.data.image_size, config.seed)


def first_variables(model: Classifier, config: RunConfig, given: Variables | None) -> Variables:
    """Those of `init.weights`, which are `given`, perhaps with a new head; None: random ones."""
    if given is None:
        return random_variables(model, config)
    if config.init.head != "reset":
        return given
    with explained(config):
        head = init_head(model, config.data.image_size, config.seed)
    return {**given, "params": {**given["params"], "head": head}}
