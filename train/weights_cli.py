"""The commands on weights outside a run: `predict NAME` and `convert`."""

from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from train import arguments
from train.config import ConfigError, ModelConfig
from train.paths import expand
from train.weights import (
    Card,
    Variables,
    load,
    load_published,
    of_run,
    preprocessing,
    published,
    read_card,
    weights_file,
)

if TYPE_CHECKING:
    from resnet_jax import Preprocessing


@dataclass(frozen=True)
class PredictArgs:
    """Options of `predict NAME`."""

    weights: Path | None = None
    """A file of torchvision's, timm's or our own: .pth, .safetensors, .npz."""
    classes: Path | None = None
    """Names of the classes, one a line, in UTF-8; blank lines are skipped. None: those that the run
    had, else ImageNet's where there are 1000, else numbers."""
    csv: Path | None = None
    """Also write image, rank, class, probability, error to this file (UTF-8)."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """What activations are computed in."""
    size: int | None = None
    """Side of the square images that the network sees, in pixels. None, here and below: as the
    config.json beside the weights says, or else as is usual for NAME."""
    crop_fraction: float | None = None
    """Resize the short side to size / crop_fraction, then cut out the centre."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """The filter of that resize."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, pixels scaled to 0..1."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, likewise."""


@dataclass(frozen=True)
class ConvertArgs:
    """Options of `convert`."""

    model: str | None = None
    """The network that the file's weights are of, from `resnet-jax models`; a run knows its own."""
    checkpoint: str = "best"
    """Of a run: best, last, or a step."""


def predict(names: list[str], options: list[str]) -> None:
    """The five most probable classes of each image; `names`: NAME or NAME.TAG, then the images."""
    usage = "predict NAME IMAGE..."
    given = arguments.parse(usage, "Classify images.", PredictArgs, PredictArgs(), options)
    if len(names) < 2:
        raise ConfigError(f"no image given: resnet-jax {usage} --weights FILE")
    variables, card = _find(names[0], given.weights)
    view = _override(card.preprocessing, given)
    count = variables["params"]["head"]["bias"].shape[0]
    class_names = _class_names(given.classes, count, card.class_names)

    import jax.numpy as jnp

    from resnet_jax import create_model
    from train import inference
    from train.compilation_cache import use_compilation_cache
    from train.predictions import image_files, show
    from train.tables import print_view

    use_compilation_cache(None)
    dtype = jnp.bfloat16 if given.precision == "bf16" else jnp.float32
    model = create_model(card.model.name, len(class_names), dtype=dtype, **card.model.changes)
    files = image_files(names[1:])
    print_view(view)
    answers = inference.classify(model, variables, class_names, view, files)
    show(answers, len(files), given.csv)


def _find(name: str, file: Path | None) -> tuple[Variables, Card]:
    """The weights of NAME in a file, or those of NAME.TAG, and what is known of them."""
    if tagged := published(name):
        if file is not None:
            raise ConfigError(f"--weights {file}: {name!r} names its weights already")
        if not (Path(name) / "model.safetensors").is_file():
            variables, view = load_published(*tagged)
            return variables, Card(ModelConfig(name=tagged[0]), view, [])
        name, file = tagged[0], Path(name)  # the folder itself, as the hub's tools leave it
    if file is None:
        raise ConfigError(
            f"{name!r} is a network without weights: name the directory of a run instead, or add "
            f"--weights FILE, or the tag of some that timm publishes, as in resnet50.a1_in1k"
        )
    file = weights_file(file)
    card = read_card(file) or Card(ModelConfig(name=name), preprocessing(file, name), [])
    if card.model.name != name:
        raise ConfigError(f"{file}: the weights of a {card.model.name}, says the .json beside it")
    return load(str(file), card.model), card


def _override(view: "Preprocessing", given: PredictArgs) -> "Preprocessing":
    """With what the command line says instead; raises `ConfigError`."""
    names = [field.name for field in fields(view)]
    said = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    try:
        return replace(view, **said)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _class_names(file: Path | None, count: int, known: list[str]) -> list[str]:
    """A file's lines; or what is known; or ImageNet's, where there are as many; or numbers."""
    if file is None:
        if len(known) == count:
            return known
        if count != 1000:
            return [f"class {i}" for i in range(count)]
        # In the order of the labels, as torchvision.models._meta._IMAGENET_CATEGORIES has them
        text = resources.files("train").joinpath("imagenet_classes.txt").read_text("utf-8")
        return text.splitlines()
    try:
        # Editors of Windows put a mark in front (BOM) and end lines with CR LF.
        text = expand(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a text file in UTF-8") from None
    names = [line.strip() for line in text.split("\n") if line.strip()]
    if len(names) != count:
        raise ConfigError(f"{file}: {len(names)} names for {count} classes")
    return names


def convert(args: list[str]) -> None:
    """Weights from any format that is read, or from a run, to torch's names or ours."""
    names, options = arguments.split(args, "SRC, a file of weights or a run directory,")
    usage = "convert SRC DST"
    start = ConvertArgs()
    given = arguments.parse(usage, "Weights between formats.", ConvertArgs, start, options)
    if len(names) != 2:
        raise ConfigError(f"convert takes two names, not {len(names)}: resnet-jax {usage}")
    source, target = map(expand, names)
    if source.resolve() == target.resolve():
        raise ConfigError(f"{target}: is the file that is read")
    if not source.exists():
        raise ConfigError(f"{source}: no such file or run directory")
    variables, model, card = (_of_run if source.is_dir() else _of_file)(source, given)
    _save(variables, target, model)
    if card:
        print(f"{card.write(target)}: its network, preprocessing and class names")


def _of_file(source: Path, given: ConvertArgs) -> tuple[Variables, ModelConfig, Card | None]:
    card = read_card(source)
    if card is None and given.model is None:
        raise ConfigError(f"--model is missing: the network whose weights {source} holds")
    if card is not None and given.model not in (None, card.model.name):
        raise ConfigError(f"--model {given.model}: {source} has those of a {card.model.name}")
    model = card.model if card else ModelConfig(name=str(given.model))
    return load(str(source), model), model, card


def _of_run(source: Path, given: ConvertArgs) -> tuple[Variables, ModelConfig, Card | None]:
    from resnet_jax import unstack_blocks
    from train.inference import read_weights
    from train.run import read_class_names, read_config

    config = read_config(source)
    if given.model not in (None, config.model.name):
        raise ConfigError(f"--model {given.model}: the run in {source} is a {config.model.name}")
    variables = unstack_blocks(read_weights(config, source, given.checkpoint).variables)
    card = Card(config.model, of_run(config), read_class_names(source))
    return variables, config.model, card


def _save(variables: Variables, target: Path, model: ModelConfig) -> None:
    import jax

    from resnet_jax import save_weights

    if not target.parent.is_dir():
        raise ConfigError(f"{target}: there is no directory {target.parent}")
    try:
        save_weights(variables, target, model.name, **model.changes)
    except ValueError as error:  # another suffix
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}") from None
    tensors = jax.tree.leaves(variables)
    parameters = sum(x.size for x in jax.tree.leaves(variables["params"]))
    size = target.stat().st_size
    print(f"{target}: {len(tensors)} tensors, {parameters:,} parameters, {size:,} bytes")
