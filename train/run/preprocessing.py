"""A run that starts from weights uses their preprocessing.

Weights expect images with the normalisation of their own training. It is recorded beside them: in
the .json file of `convert`, in timm's config.json or in that of a run.
"""

from collections.abc import Collection
from operator import attrgetter
from pathlib import Path
from typing import Any

from resnet_jax import Preprocessing, WeightsError
from resnet_jax.weights import pretrained
from resnet_jax.weights.pretrained import default_preprocessing, published_preprocessing
from train.checkpoint.weights import as_config_error, parse_timm_name, read_card, weights_file
from train.config import ConfigError, RunConfig
from train.config.serialize import flatten, to_json, with_options
from train.recipes import all_recipes
from train.run.directory import read_config

PREPROCESSING = {
    "data.image_size": "size",
    "data.mean": "mean",
    "data.std": "std",
    "eval.crop_fraction": "crop_fraction",
    "eval.interpolation": "interpolation",
}
"""Option of a run -> field of `Preprocessing`."""

TAKEN = tuple(name for name in PREPROCESSING if name != "data.image_size")
"""Options that a run takes from its weights. The image size stays that of the run."""


def adopt_preprocessing(
    config: RunConfig, workdir: Path, *, resumes: bool, given: Collection[str] = ()
) -> tuple[RunConfig, list[str]]:
    """`config` with the preprocessing that `init.weights` expects, and lines that report both.

    An option that the user set is kept: one in `given`, or one that differs from the recipe.

    Args:
      resumes: take the values from config.json in `workdir`, and read no other file.
      given: names of the options on the command line, such as "data.mean".

    Raises:
      ConfigError: the file that records the preprocessing cannot be read.
    """
    if not config.init.weights:
        return config, []
    now, recipe = (flatten(to_json(c)) for c in (config, _recipe(config)))
    free = [name for name in TAKEN if name not in given and now[name] == recipe[name]]
    if resumes:
        began = read_config(workdir)
        same = began.init.weights == config.init.weights
        stored = flatten(to_json(began))
        return with_options(config, {name: stored[name] for name in free if same}), []
    if not free:
        return config, [f"this run uses  {_line(of_run(config))}, all set by the user"]
    recorded = _recorded(config)
    if recorded is None:
        usual = _line(default_preprocessing(config.model.name))
        expected = f"{usual} (usual for their name; no file beside them records it)"
    else:
        expected, options = _line(recorded), options_of(recorded)
        config = with_options(config, {name: options[name] for name in free})
    return config, [f"weights expect {expected}", f"this run uses  {_line(of_run(config))}"]


def _recipe(config: RunConfig) -> RunConfig:
    return all_recipes().get(config.recipe, RunConfig())


def _recorded(config: RunConfig) -> Preprocessing | None:
    """The preprocessing recorded beside `init.weights`; None: no record."""
    given = str(config.init.weights)
    if tagged := parse_timm_name(given):
        try:
            return published_preprocessing(*tagged)
        except WeightsError as error:
            raise ConfigError(str(error)) from None
    file = weights_file(given)
    try:
        return recorded_preprocessing(file, config.model.name)
    except ConfigError as error:
        options = ", ".join(f"--{name}" for name in TAKEN)
        raise ConfigError(f"{error}. To start without reading it, set {options}") from None


def _line(found: Preprocessing) -> str:
    mean, std = (" ".join(f"{x:g}" for x in values) for values in (found.mean, found.std))
    return (
        f"mean {mean}, std {std}, crop_fraction {found.crop_fraction:g}, {found.interpolation}, "
        f"images of {found.size} pixels"
    )


def find_preprocessing(file: Path, name: str) -> Preprocessing:
    """The preprocessing for network `name` with the weights in `file`.

    The one recorded beside the file; without a record, the usual one of torchvision's and timm's
    weights of this name. Raises `ConfigError` as `recorded_preprocessing` does.
    """
    return recorded_preprocessing(file, name) or default_preprocessing(name)


def recorded_preprocessing(file: Path, name: str) -> Preprocessing | None:
    """The preprocessing recorded beside the weights in `file`; None: no record.

    It is in the .json file of `convert`, or in config.json: timm's, or the run's if `file` is in a
    run directory.

    Raises:
      ConfigError: such a file exists, but cannot be read.
    """
    if card := read_card(file):
        return card.preprocessing
    config = file.with_name("config.json")
    if not config.is_file():
        return None
    if (file.parent / "checkpoints").is_dir():
        return of_run(read_config(file.parent))
    with as_config_error():
        return pretrained.read_config(config, name)[0]


def of_run(config: RunConfig) -> Preprocessing:
    """The preprocessing of evaluation images in a run."""
    fields = {field: attrgetter(name)(config) for name, field in PREPROCESSING.items()}
    return Preprocessing(**fields)


def options_of(preprocessing: Preprocessing) -> dict[str, Any]:
    """The inverse of `of_run`: the options of a run with this preprocessing."""
    return {name: getattr(preprocessing, field) for name, field in PREPROCESSING.items()}
