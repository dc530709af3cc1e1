"""`predict`: which weights classify the images, and how an image is read."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from resnet_jax.zoo import ZOO
from train.checkpoint.weights import (
    Card,
    Variables,
    load,
    load_published,
    parse_timm_name,
    read_card,
    weights_file,
)
from train.cli.arguments import named, parse, split
from train.cli.usage import PREDICT_HELP
from train.config import ConfigError, ModelConfig, RunConfig
from train.config.effects import PREDICTION, check_applicable
from train.config.serialize import with_options
from train.paths import expand
from train.run.preprocessing import find_preprocessing, of_run, options_of


@dataclass(frozen=True)
class PredictArgs:
    """Options of `predict`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    weights: Path | None = None
    """Of a network: a file of torchvision's, timm's or our own: .pth, .safetensors, .npz."""
    checkpoint: str = "best"
    """Of a run: best, last, or a step."""
    classes: Path | None = None
    """Names of the classes, one a line, in UTF-8; blank lines are skipped. None: those that the run
    had, else ImageNet's where there are 1000, else numbers."""
    csv: Path | None = None
    """Also write image, rank, class, probability, error to this file (UTF-8)."""


class _Trained(NamedTuple):
    """A network with its weights, and what is needed to show images to it."""

    config: RunConfig
    variables: Variables
    classes: int
    class_names: list[str]
    """By label; empty if they are not known."""


def predict(args: list[str]) -> None:
    """The five most probable classes of each image, or of all images in a folder."""
    names, options = split(args, "the run directory, or the network,")
    base = _base(names[0]) if names else RunConfig()
    given: PredictArgs = parse(
        "predict DIR|NAME IMAGE...",
        PREDICT_HELP,
        PredictArgs,
        PredictArgs(base),
        options,
        common=PREDICTION,
        accepts=PREDICTION.__contains__,
        has_defaults=bool(names),
    )
    _warn(check_applicable("predict", base, given.config, PREDICTION.__contains__))
    if len(names) < 2:
        raise ConfigError("no image given: resnet-jax predict DIR|NAME IMAGE...")
    read = _read_network if _is_network(names[0]) else _read_run
    trained = read(names[0], given, named(options))
    class_names = _class_names(given.classes, trained.classes, trained.class_names)

    from train.cli.tables import print_view
    from train.data.images.crops import limits
    from train.inference import inference
    from train.inference.predictions import image_files, show
    from train.learn.model import make_model
    from train.runtime import use_compilation_cache

    config = trained.config
    use_compilation_cache(config.compilation_cache)
    model, view = make_model(config, len(class_names)), of_run(config)
    files = image_files(names[1:])
    print_view(view)
    answers = inference.classify(
        model, trained.variables, class_names, view, files, limits=limits(config.data)
    )
    show(answers, len(files), given.csv)


def _is_network(name: str) -> bool:
    return name in ZOO or parse_timm_name(name) is not None


def _base(name: str) -> RunConfig:
    """The options before the command line changes them: those of the run, or of the network.

    `data.name` is "folder" in both, because `predict` reads image files whatever the run read.
    """

    if _is_network(name):
        from resnet_jax.weights.pretrained import default_preprocessing

        network = name.partition(".")[0]
        config = RunConfig(precision="fp32", scan=False, model=ModelConfig(name=network))
        config = with_options(config, options_of(default_preprocessing(network)))
    elif expand(name).exists():
        from train.run.directory import read_config

        config = read_config(expand(name))
    else:
        from train.cli.tables import near_models

        near = near_models(name.partition(".")[0])
        hint = f"; did you mean the network {', '.join(near)}?" if near else ""
        raise ConfigError(f"{name!r} is neither a run directory nor a network{hint}")
    return replace(config, data=replace(config.data, name="folder"))


def _warn(warnings: list[str]) -> None:
    if warnings:
        from train.console import warn

        for warning in warnings:
            warn(warning)


def _read_run(name: str, given: PredictArgs, options: Collection[str]) -> _Trained:
    """The run in the directory `name`. Raises `ConfigError`."""
    from train.inference.inference import read_weights
    from train.run.directory import read_class_names

    if "weights" in options:
        raise ConfigError(
            f"--weights {given.weights}: {name!r} is a run and has its own weights; --checkpoint "
            "chooses which"
        )
    workdir = expand(name)
    variables = read_weights(given.config, workdir, given.checkpoint).variables
    class_names = read_class_names(workdir)
    return _Trained(given.config, variables, len(class_names), class_names)


def _read_network(name: str, given: PredictArgs, options: Collection[str]) -> _Trained:
    """The network `name`, NAME or NAME.TAG; what its weights expect holds where no option is given.

    Raises:
      ConfigError: no weights, or those of another network.
    """

    if "checkpoint" in options:
        raise ConfigError(
            f"--checkpoint {given.checkpoint}: {name!r} is a network and no run; --weights names "
            "the file of its weights"
        )
    variables, card = _find(name, given.weights)
    expected = options_of(card.preprocessing)
    free = {option: value for option, value in expected.items() if option not in options}
    config = replace(with_options(given.config, free), model=card.model)
    count = variables["params"]["head"]["bias"].shape[0]
    return _Trained(config, variables, count, card.class_names)


def _find(name: str, file: Path | None) -> tuple[Variables, Card]:
    """The weights of NAME in a file, or those of NAME.TAG, and what is known of them."""
    if tagged := parse_timm_name(name):
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
    card = read_card(file) or Card(ModelConfig(name=name), find_preprocessing(file, name), [])
    if card.model.name != name:
        raise ConfigError(f"{file}: the weights of a {card.model.name}, says the .json beside it")
    return load(str(file), card.model), card


def _class_names(file: Path | None, count: int, known: list[str]) -> list[str]:
    """A file's lines; or what is known; or ImageNet's, where there are as many; or numbers."""
    if file is None:
        if len(known) == count:
            return known
        if count != 1000:
            return [f"class {i}" for i in range(count)]
        # In the order of the labels, as torchvision.models._meta._IMAGENET_CATEGORIES has them
        text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text("utf-8")
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
