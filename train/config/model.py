"""The options of the network, `model.*`, and of its initial weights, `init.*`."""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.spec import ResNetSpec
from resnet_jax.zoo import get_spec
from train.config.base import check, check_types, field_docs
from train.errors import ConfigError

_SPEC_DOCS = field_docs(ResNetSpec)

# `ModelConfig` has the fields of `ResNetSpec`, each None until it is set: architecture options and
# their defaults are defined in one place.
_SpecChanges: Any = dataclasses.make_dataclass(
    "_SpecChanges",
    [
        (name, Annotated[kind | None, tyro.conf.arg(help=_SPEC_DOCS[name])], None)
        for name, kind in typing.get_type_hints(ResNetSpec).items()
    ],
    frozen=True,
    kw_only=True,
)


@dataclass(frozen=True)
class ModelConfig(_SpecChanges):
    """The network: a name, and changes to its `ResNetSpec`."""

    name: str = "resnet50"
    """A name from `resnet-jax models`."""

    def __post_init__(self) -> None:
        check_types(self, "model.")
        try:
            get_spec(self.name, **self.changes)
        except ValueError as error:
            unknown = "unknown option" in str(error)
            hint = "; set it to None to drop the recipe's value" if unknown else ""
            raise ConfigError(f"model: {error}{hint}") from None

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of the spec that are set here."""
        fields = [f.name for f in dataclasses.fields(ResNetSpec)]
        values = {name: getattr(self, name) for name in fields}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class InitConfig:
    """The initial weights.

    If the weights come with a description of their preprocessing (the .json file of `convert`, or
    timm's config.json), it sets data.mean, data.std, eval.crop_fraction and eval.interpolation,
    unless they are given. Weights of torchvision have no such file; they expect the default
    data.mean and data.std.
    """

    weights: str | None = None
    """A file of weights (as resnet_jax.load_weights reads it), or NAME.TAG of weights published by
    timm, such as resnet50.a1_in1k; None: random weights."""
    head: Literal["keep", "reset"] = "reset"
    """reset: a new classifier for the classes of the data; keep: the classifier of init.weights,
    which must have the same number of classes."""

    def __post_init__(self) -> None:
        check_types(self, "init.")
        check("init.weights", self.weights, self.weights != "", "needs a file, or NAME.TAG")
