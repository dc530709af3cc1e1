"""The options of the network: `model.*`, and `init.*` for the weights that it starts from."""

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

# The fields of `ModelConfig` are the name and those of `ResNetSpec`, each None until it is set, so
# that an architecture option has its home, and its default, in one place.
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
    """The network: a name of the zoo, and fields of its ResNetSpec to change."""

    name: str = "resnet50"
    """A name from `resnet-jax models`."""

    def __post_init__(self) -> None:
        check_types(self, "model.")
        try:
            get_spec(self.name, **self.changes)
        except ValueError as error:
            drop = "; what a recipe set, 'None' drops" if "unknown option" in str(error) else ""
            raise ConfigError(f"model: {error}{drop}") from None

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of the spec that differ from what the name says."""
        fields = [f.name for f in dataclasses.fields(ResNetSpec)]
        values = {name: getattr(self, name) for name in fields}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class InitConfig:
    """Where weights come from.

    What is written beside them about preprocessing (the .json of `convert`, timm's config.json)
    becomes data.mean, data.std, eval.crop_fraction and eval.interpolation, unless those are set.
    Nothing is written beside torchvision's, which expect the default data.mean and data.std.
    """

    weights: str | None = None
    """A file that resnet_jax.load_weights reads, or NAME.TAG of timm's published weights, such as
    resnet50.a1_in1k; None: random."""
    head: Literal["keep", "reset"] = "reset"
    """reset: a new classifier for the data's classes; keep: the file's, which has as many."""

    def __post_init__(self) -> None:
        check_types(self, "init.")
        check("init.weights", self.weights, self.weights != "", "needs a file, or NAME.TAG")
