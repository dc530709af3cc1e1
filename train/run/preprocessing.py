"""A run that starts from weights uses their preprocessing.

Weights expect images with the normalisation of their own training. It is recorded beside them: in
the .json file of `convert`, in timm's config.json or in that of a run.
"""

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from resnet_jax import Preprocessing, WeightsError
from resnet_jax.weights import pretrained
from resnet_jax.weights.pretrained import default_preprocessing, published_preprocessing
from train.checkpoint.weights import as_config_error, parse_timm_name, read_card, weights_file
from train.config import ConfigError, DataConfig, RunConfig
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
        return config, [f"this run uses  {_line(config)}, all set by the user"]
    recorded = _recorded(config)
    if recorded is None:
        usual = _line(default_preprocessing(config.model.name))
        expected = f"{usual} (usual for their name; no file beside them records it)"
    else:
        expected, options = _line(recorded), options_of(recorded)
        config = with_options(config, {name: options[name] for name in free})
    return config, [f"weights expect {expected}", f"this run uses  {_line(config)}"]


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


def _line(found: Preprocessing | RunConfig) -> str:
    if isinstance(found, RunConfig):
        mean, found = describe_mean(found.data), of_run(found)
    else:
        mean = _numbers(found.mean, found.std)
    return (
        f"{mean}, crop_fraction {found.crop_fraction:g}, {found.interpolation}, "
        f"images of {found.size} pixels"
    )


def _numbers(mean: Sequence[float], std: Sequence[float]) -> str:
    mean_text, std_text = (" ".join(f"{x:g}" for x in values) for values in (mean, std))
    return f"mean {mean_text}, std {std_text}"


def describe_mean(data: DataConfig) -> str:
    """What is subtracted from the images, and by what they are divided."""
    if data.whiten != "none":
        return f"{data.whiten}-whitened with epsilon {data.whiten_epsilon:g}"
    if data.mean == "measure":
        return f"{data.measured_name} measured"
    if data.mean == "image":
        return f"less the mean image, std {' '.join(f'{x:g}' for x in data.std)}"
    return _numbers(cast(Sequence[float], data.mean), data.std)


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
        _refuse(file, card.measured)
        return card.preprocessing
    config = file.with_name("config.json")
    if not config.is_file():
        return None
    if (file.parent / "checkpoints").is_dir():
        run = read_config(file.parent)
        _refuse(file, measured_options(run))
        return of_run(run)
    with as_config_error():
        return pretrained.read_config(config, name)[0]


def of_run(config: RunConfig) -> Preprocessing:
    """The preprocessing of evaluation images in a run.

    A mean image and whitening are no numbers: they are in a file (`train.run.pixels`), and the mean
    here is then 0, and the standard deviation of whitened images 1.
    """
    fields = {field: attrgetter(name)(config) for name, field in PREPROCESSING.items()}
    if config.data.measures:
        fields["mean"] = (0.0,)
    if config.data.whiten != "none":
        fields["std"] = (1.0,)
    return Preprocessing(**fields)


def _refuse(file: Path, measured: Mapping[str, str]) -> None:
    """Raises `ConfigError`: a run cannot start from weights for such images."""
    for name, value in measured.items():
        raise ConfigError(
            f"{file}: these weights expect images with {name} {value}, and a run measures its own"
        )


def measured_options(config: RunConfig) -> dict[str, str]:
    """The options of a run with a mean image or whitening, for `Card.measured`; else {}."""
    data = config.data
    if data.whiten != "none":
        return {"data.whiten": data.whiten}
    return {"data.mean": "image"} if data.mean == "image" else {}


def options_of(preprocessing: Preprocessing) -> dict[str, Any]:
    """The inverse of `of_run`: the options of a run with this preprocessing."""
    return {name: getattr(preprocessing, field) for name, field in PREPROCESSING.items()}
