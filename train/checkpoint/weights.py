"""Weights that the user gives: a file, or NAME.TAG for weights that timm publishes.

All errors are `ConfigError`, bad input. JAX is imported only when it is needed.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.zoo import ZOO
from train.config import ConfigError, InitConfig, ModelConfig
from train.paths import expand

if TYPE_CHECKING:
    from resnet_jax import Preprocessing

Variables = dict[str, Any]

_SUFFIXES = {"safetensors", "npz", "pth", "pt", "th", "bin"}
# The names of torch, of timm for v2, and ours.
_HEADS = ("fc.bias", "head.fc.bias", "params/head/bias")

# The stage and the block: "layer1.0.", timm's "stages.0.blocks.0." for v2, our "stage1/block1/".
_BLOCK = re.compile(r"(?:layer|stages?\.?)(\d+)[./](?:blocks?\.?)?(\d+)[./]")
_MAX_CANDIDATES = 10  # networks to try, at about half a second each


def parse_timm_name(given: str) -> tuple[str, str] | None:
    """The parts of "resnet50.a1_in1k"; None for anything else, such as a file or a folder.

    >>> parse_timm_name("resnet50.a1_in1k")
    ('resnet50', 'a1_in1k')
    >>> parse_timm_name("resnet50.pth")
    """
    name, _, tag = given.partition(".")
    if name not in ZOO or not re.fullmatch(r"\w+", tag) or tag in _SUFFIXES:
        return None
    path = Path(given)
    return None if path.is_file() or (path / "checkpoints").is_dir() else (name, tag)


@dataclass(frozen=True)
class Card:
    """The description of exported weights, saved as a .json file with the same name."""

    model: ModelConfig
    preprocessing: "Preprocessing"
    class_names: list[str]
    measured: Mapping[str, str] = field(default_factory=dict)
    """Options of images with a mean image or whitening, such as {"data.whiten": "zca"}. Their
    arrays are in the file `measured_file(file)`."""

    def write(self, file: Path) -> Path:
        """Writes the .json file of a file of weights, and returns its path."""
        target = file.with_suffix(".json")
        changes = {"name": self.model.name, **self.model.changes}
        content = {**asdict(self), "model": changes}
        if not self.measured:
            del content["measured"]
        text = json.dumps(content, indent=1)
        target.write_text(text + "\n", encoding="utf-8")
        return target


def measured_file(file: Path) -> Path:
    """The file of the mean image and the whitening matrix of a file of weights.

    >>> measured_file(Path("runs/w.safetensors")).name
    'w.preprocessing.npz'
    """
    return file.with_suffix(".preprocessing.npz")


def read_card(file: Path) -> Card | None:
    """Reads the card of a file of weights; None: there is none.

    Raises:
      ConfigError: the .json file is not such a card.
    """
    from resnet_jax import Preprocessing

    path = file.with_suffix(".json")
    if not path.is_file():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        preprocessing = Preprocessing(**card["preprocessing"])
        model, names = ModelConfig(**card["model"]), list(card["class_names"])
        return Card(model, preprocessing, names, dict(card.get("measured", {})))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a file that convert writes ({error!r})") from None


@contextlib.contextmanager
def as_config_error() -> Iterator[None]:
    from resnet_jax import WeightsError
    from resnet_jax.weights.unpickler import UnsafeFile

    try:
        yield
    except (WeightsError, UnsafeFile, FileNotFoundError) as error:
        raise ConfigError(str(error)) from None


def load(given: str, model: ModelConfig) -> Variables:
    """Loads the variables of a network from a file or NAME.TAG, with any number of classes.

    Raises:
      ConfigError: the weights are missing, unreadable, unsafe, not finite, or of another network.
    """
    tensors = _tensors(given, model)
    return _fit(given, tensors, model.name, _classes(tensors), **model.changes)


def load_published(name: str, tag: str, **options: Any) -> "tuple[Variables, Preprocessing]":
    """`resnet_jax.load_pretrained` for the command line. Raises `ConfigError`."""
    from resnet_jax import load_pretrained

    with as_config_error():
        return load_pretrained(name, tag, **options)


def initial(init: InitConfig, model: ModelConfig, num_classes: int) -> Variables:
    """The variables that a run starts from; it has to replace the head if `init.head` is "reset".

    Raises:
      ConfigError: see `load`; or `init.head` is "keep" and the number of classes differs.
    """
    given = str(init.weights)
    tensors = _tensors(given, model, num_classes, head=init.head)
    found = _classes(tensors)
    if init.head == "keep" and found not in (None, num_classes):
        raise ConfigError(
            f"init.head 'keep': the head in {given} has {found} classes and the data "
            f"{num_classes}; 'reset' initialises a new one"
        )
    return _fit(given, tensors, model.name, num_classes, head=init.head, **model.changes)


def _tensors(
    given: str, model: ModelConfig, num_classes: int | None = None, *, head: Any = "keep"
) -> dict[str, np.ndarray]:
    """Arrays by name (torch's or ours); with `head` "reset", timm's have `num_classes` outputs."""
    from resnet_jax.weights.convert import needed
    from resnet_jax.weights.files import read_tensors

    if found := parse_timm_name(given):
        from flax.traverse_util import flatten_dict

        # Some of timm's weights have no head.
        options = {"num_classes": num_classes, "head": head} if head == "reset" else {}
        variables, _ = load_published(*found, **options)
        return flatten_dict(variables, sep="/")
    with as_config_error():
        tensors = read_tensors(
            weights_file(given), needed(model.name, num_classes, **model.changes)
        )
    for name, tensor in tensors.items():  # NaN may become a valid-looking output
        if not np.isfinite(tensor).all():
            raise ConfigError(f"{given}: {name} is not finite")
    return tensors


def _classes(tensors: Mapping[str, np.ndarray]) -> int | None:
    """Number of outputs of the head; None: there is no head."""
    return next((len(tensors[key]) for key in _HEADS if key in tensors), None)


def _fit(
    given: str,
    tensors: Mapping[str, np.ndarray],
    name: str,
    num_classes: int | None,
    **options: Any,
) -> Variables:
    from resnet_jax import WeightsError, from_tensors

    try:
        return from_tensors(tensors, name, num_classes, **options)
    except WeightsError as error:
        known = _network_of(tensors)
        hint = f"\n  These are the weights of {known}" if known not in (None, name) else ""
        raise ConfigError(f"{given}: {error}{hint}") from None


def _network_of(tensors: Mapping[str, np.ndarray]) -> str | None:
    """The name of the network of the zoo that these tensors fit; None: not among the first few."""
    from resnet_jax import ResNetSpec, WeightsError, from_tensors

    blocks = {tuple(map(int, found.groups())) for found in map(_BLOCK.search, tensors) if found}
    stages = sorted({stage for stage, _ in blocks})
    depths = tuple(sum(stage == of for of, _ in blocks) for stage in stages)
    block = "bottleneck" if any("conv3" in key for key in tensors) else "basic"
    candidates = [
        name
        for name, spec in ZOO.items()
        if isinstance(spec, ResNetSpec) and (spec.depths, spec.block) == (depths, block)
    ]
    for name in candidates[:_MAX_CANDIDATES]:
        with contextlib.suppress(WeightsError):
            from_tensors(tensors, name, _classes(tensors))
            return name
    return None


def weights_file(given: str | Path) -> Path:
    """The path of a file of weights: "~" is expanded; of a folder, its model.safetensors.

    Raises:
      ConfigError: the home directory is unknown; or `given` is a run or a network without a tag.
    """
    path = expand(given)
    if str(given) in ZOO and not path.exists():
        raise ConfigError(
            f"{str(given)!r} is the name of a network, and weights need a tag too: NAME.TAG, such "
            "as resnet50.a1_in1k, or a file"
        )
    if not path.is_dir():
        return path
    file = path / "model.safetensors"
    if (path / "checkpoints").is_dir() and not file.is_file():
        raise ConfigError(
            f"{str(given)!r} is a run, not a file of weights. Write its weights to a file first: "
            f"resnet-jax convert {given} weights.safetensors"
        )
    return file
