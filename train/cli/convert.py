"""`convert`: writes the weights of a file or a run to another file."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from train.checkpoint.weights import Card, Variables, load, measured_file, read_card
from train.cli import arguments
from train.config import ConfigError, ModelConfig
from train.paths import expand


@dataclass(frozen=True)
class ConvertArgs:
    """Options of `convert`."""

    model: str | None = None
    """Network of the weights in the file, from `resnet-jax models`. Not needed for a run."""
    checkpoint: str = "best"
    """Checkpoint of a run: best, last, or a step."""


def convert(args: list[str]) -> None:
    """Writes the weights of a file or a run to a file with torch's parameter names or ours."""
    names, options = arguments.split(args, "SRC, a file of weights or a run directory,")
    usage, about = "convert SRC DST", "Converts weights between file formats."
    given: ConvertArgs = arguments.parse(usage, about, ConvertArgs, ConvertArgs(), options)
    if len(names) != 2:
        raise ConfigError(f"convert takes two names, not {len(names)}: resnet-jax {usage}")
    source, target = map(expand, names)
    if source.resolve() == target.resolve():
        raise ConfigError(f"{target}: SRC and DST are the same file")
    if not source.exists():
        raise ConfigError(f"{source}: no such file or run directory")
    variables, model, card = (_of_run if source.is_dir() else _of_file)(source, given)
    _save(variables, target, model)
    if card:
        print(f"{card.write(target)}: its network, preprocessing and class names")
    if card and card.measured:
        _copy_measured(source, target)


def _copy_measured(source: Path, target: Path) -> None:
    """Copies the mean image and the whitening matrix of a run or a file of weights."""
    from train.run.pixels import FILE

    file = source / FILE if source.is_dir() else measured_file(source)
    copy = measured_file(target)
    try:
        shutil.copyfile(file, copy)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    print(f"{copy}: the mean image, and the whitening matrix if there is one")


def _of_file(source: Path, given: ConvertArgs) -> tuple[Variables, ModelConfig, Card | None]:
    card = read_card(source)
    if card is None and given.model is None:
        raise ConfigError(f"--model is missing: name the network of the weights in {source}")
    if card is not None and given.model not in (None, card.model.name):
        raise ConfigError(f"--model {given.model}: {source} has weights of a {card.model.name}")
    model = card.model if card else ModelConfig(name=str(given.model))
    return load(str(source), model), model, card


def _of_run(source: Path, given: ConvertArgs) -> tuple[Variables, ModelConfig, Card | None]:
    from resnet_jax import unstack_blocks
    from train.inference.evaluate import read_weights
    from train.run.directory import read_class_names, read_config
    from train.run.preprocessing import measured_options, of_run

    config = read_config(source)
    if given.model not in (None, config.model.name):
        raise ConfigError(f"--model {given.model}: the run in {source} is of a {config.model.name}")
    variables = unstack_blocks(read_weights(config, source, given.checkpoint).variables)
    names = read_class_names(source)
    card = Card(config.model, of_run(config), names, measured_options(config))
    return variables, config.model, card


def _save(variables: Variables, target: Path, model: ModelConfig) -> None:
    import jax

    from resnet_jax import save_weights

    if not target.parent.is_dir():
        raise ConfigError(f"{target}: the directory {target.parent} does not exist")
    try:
        save_weights(variables, target, model.name, **model.changes)
    except ValueError as error:  # an unknown suffix
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}") from None
    tensors = jax.tree.leaves(variables)
    parameters = sum(x.size for x in jax.tree.leaves(variables["params"]))
    size = target.stat().st_size
    print(f"{target}: {len(tensors)} tensors, {parameters:,} parameters, {size:,} bytes")
