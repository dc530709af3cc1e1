"""`predict`: classifies images with the weights of a run, of a file or of timm."""

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
    measured_file,
    parse_timm_name,
    read_card,
    weights_file,
)
from train.cli.arguments import option_names, parse, split
from train.cli.usage import PREDICT_HELP
from train.config import ConfigError, ModelConfig, RunConfig
from train.config.effects import PREDICTION, check_applicable
from train.config.serialize import with_options
from train.console import warn
from train.paths import expand
from train.run.preprocessing import describe_mean, find_preprocessing, of_run, options_of


@dataclass(frozen=True)
class PredictArgs:
    """Options of `predict`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    weights: Path | None = None
    """Weights of a network: .pth, .safetensors or .npz, from torchvision, timm or resnet-jax."""
    checkpoint: str = "best"
    """Checkpoint of a run: best, last, or a step."""
    classes: Path | None = None
    """File with the names of the classes, one a line, in UTF-8. Blank lines are skipped. None: the
    run's names; else ImageNet's for 1000 classes, and numbers for any other count."""
    csv: Path | None = None
    """Also write image, rank, class, probability and error to this file, in UTF-8."""


class _Trained(NamedTuple):
    """A network's weights, and what is needed to classify images with them."""

    config: RunConfig
    variables: Variables
    classes: int
    class_names: list[str]
    """By label; empty: unknown."""
    measured: Path
    """The file of its mean image and whitening matrix, if `config.data` needs them."""


def predict(args: list[str]) -> None:
    """Prints the five most probable classes of each image; a folder means all images in it."""
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
    warn(*check_applicable("predict", base, given.config, PREDICTION.__contains__))
    if len(names) < 2:
        raise ConfigError("no image given: resnet-jax predict DIR|NAME IMAGE...")
    read = _read_network if _is_network(names[0]) else _read_run
    trained = read(names[0], given, option_names(options))
    class_names = _class_names(given.classes, trained.classes, trained.class_names)

    from train.cli.tables import print_preprocessing
    from train.data.images.crops import limits
    from train.inference.predict import classify
    from train.inference.predictions import image_files, show
    from train.learn.model import make_model
    from train.run.pixels import load as load_pixels
    from train.runtime import use_compilation_cache

    config = trained.config
    use_compilation_cache(config.compilation_cache)
    model, preprocessing = make_model(config, len(class_names)), of_run(config)
    files = image_files(names[1:])
    print_preprocessing(preprocessing, describe_mean(config.data) if config.data.measures else "")
    answers = classify(
        *(model, trained.variables, class_names, preprocessing, files),
        limits=limits(config.data),
        multi_label=config.data.multi_label,
        normalisation=load_pixels(trained.measured, config.data),
    )
    show(answers, len(files), given.csv)


def _is_network(name: str) -> bool:
    return name in ZOO or parse_timm_name(name) is not None


def _base(name: str) -> RunConfig:
    """The config of the run, or that of the network, before the command line changes it.

    `data.name` is "folder" in both: `predict` reads image files, whatever data the run used.
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


def _read_run(name: str, given: PredictArgs, options: Collection[str]) -> _Trained:
    """The weights of the run in the directory `name`. Raises `ConfigError`."""
    from train.inference.evaluate import read_weights
    from train.run.directory import read_class_names
    from train.run.pixels import FILE as RUN_FILE

    if "weights" in options:
        raise ConfigError(
            f"--weights {given.weights}: {name!r} is a run, which has its own weights; choose them "
            "with --checkpoint"
        )
    workdir = expand(name)
    variables = read_weights(given.config, workdir, given.checkpoint).variables
    class_names = read_class_names(workdir)
    return _Trained(given.config, variables, len(class_names), class_names, workdir / RUN_FILE)


def _read_network(name: str, given: PredictArgs, options: Collection[str]) -> _Trained:
    """The weights of the network `name`, NAME or NAME.TAG.

    Options that are not given get the values that the weights expect.

    Raises:
      ConfigError: there are no weights, or they belong to another network.
    """
    if "checkpoint" in options:
        raise ConfigError(
            f"--checkpoint {given.checkpoint}: {name!r} is a network, not a run; name the file of "
            "its weights with --weights"
        )
    variables, card = _find(name, given.weights)
    expected = {**options_of(card.preprocessing), **card.measured}
    unset = {option: value for option, value in expected.items() if option not in options}
    config = replace(with_options(given.config, unset), model=card.model)
    count = variables["params"]["head"]["bias"].shape[0]
    file = measured_file(weights_file(given.weights)) if given.weights else Path()
    return _Trained(config, variables, count, card.class_names, file)


def _find(name: str, file: Path | None) -> tuple[Variables, Card]:
    """The weights of NAME in a file, or of NAME.TAG, and their card."""
    if tagged := parse_timm_name(name):
        if file is not None:
            raise ConfigError(f"--weights {file}: {name!r} already names its weights")
        if not (Path(name) / "model.safetensors").is_file():
            variables, preprocessing = load_published(*tagged)
            return variables, Card(ModelConfig(name=tagged[0]), preprocessing, [])
        name, file = tagged[0], Path(name)  # a folder of that name, as a download leaves it
    if file is None:
        raise ConfigError(
            f"{name!r} is a network without weights: name the directory of a run instead, or add "
            "--weights FILE, or the tag of weights that timm publishes, as in resnet50.a1_in1k"
        )
    file = weights_file(file)
    card = read_card(file) or Card(ModelConfig(name=name), find_preprocessing(file, name), [])
    if card.model.name != name:
        raise ConfigError(
            f"{file}: has the weights of a {card.model.name}, according to its .json file"
        )
    return load(str(file), card.model), card


def _class_names(file: Path | None, count: int, known: list[str]) -> list[str]:
    """The lines of a file; or the known names; or, for 1000 classes, ImageNet's; or numbers."""
    if file is None:
        if len(known) == count:
            return known
        if count != 1000:
            return [f"class {i}" for i in range(count)]
        # In the order of the labels, as in torchvision.models._meta._IMAGENET_CATEGORIES
        text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text("utf-8")
        return text.splitlines()
    try:
        # Files from Windows may start with a byte order mark, and end lines with CR LF.
        text = expand(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a text file in UTF-8") from None
    names = [line.strip() for line in text.split("\n") if line.strip()]
    if len(names) != count:
        raise ConfigError(f"{file}: {len(names)} names for {count} classes")
    return names
