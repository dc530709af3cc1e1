"""`Condition`, and what several conditions use."""

from collections.abc import Callable
from typing import Any, NamedTuple

from resnet_jax.zoo import get_spec
from train.config import RunConfig


class Condition(NamedTuple):
    """Options that have an effect only under a condition."""

    options: tuple[str, ...]
    decides: str
    """The option on which the condition depends."""
    holds: Callable[[RunConfig], bool]
    """Whether the options have an effect in a config."""
    belongs: str
    """For which configs the condition holds, in words."""
    is_mistake: bool = False
    """Whether setting them without effect is an error; otherwise it is a warning."""


def is_set(group: str, name: str) -> Callable[[RunConfig], bool]:
    """Whether an option is neither 0 nor empty."""
    return lambda config: bool(getattr(getattr(config, group), name))


def spec_of(config: RunConfig) -> Any:
    """The `ResNetSpec` or `LeNetSpec` of a config's network."""
    return get_spec(config.model.name, **config.model.changes)
