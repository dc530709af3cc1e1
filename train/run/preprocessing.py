"""The preprocessing of given weights, taken over by the run that starts from them.

Weights expect images that were normalised as those they were trained on. What they expect is
written beside them: in the .json of `convert`, in the config.json of timm or of a run.
"""

from collections.abc import Collection
from operator import attrgetter
from pathlib import Path
from typing import Any

from resnet_jax import Preprocessing, WeightsError
from resnet_jax.weights import pretrained
from resnet_jax.weights.pretrained import default_preprocessing, published_preprocessing
from train.checkpoint.weights import as_config_error, published, read_card, weights_file
from train.config import ConfigError, RunConfig
from train.config.serialize import flatten, to_json, with_options
from train.recipes import all_recipes
from train.run.parts import read_config

PREPROCESSING = {
    "data.image_size": "size",
    "data.mean": "mean",
    "data.std": "std",
    "eval.crop_fraction": "crop_fraction",
    "eval.interpolation": "interpolation",
}
"""Options of a run -> the field of `Preprocessing` that each one is."""

TAKEN = tuple(name for name in PREPROCESSING if name != "data.image_size")
"""Options that a run takes over. The size of the images stays the run's own."""


def take_over(
    config: RunConfig, workdir: Path, *, resumes: bool, given: Collection[str] = ()
) -> tuple[RunConfig, list[str]]:
    """`config` with the preprocessing that `init.weights` expects, and lines that report both.

    An option that was set by hand stays: one in `given`, or one that differs from the recipe's. A
    run that `resumes` has the values in its config.json, and needs no file.

    Args:
      given: names of the options on the command line, such as "data.mean".

    Raises:
      ConfigError: what is written beside the weights cannot be read.
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
        return config, [f"this run uses  {_line(of_run(config))}, all as given"]
    view = _stated(config)
    if view is None:
        usual = _line(default_preprocessing(config.model.name))
        expected = f"{usual} (usual for their name; nothing is written beside them)"
    else:
        expected, wanted = _line(view), options_of(view)
        config = with_options(config, {name: wanted[name] for name in free})
    return config, [f"weights expect {expected}", f"this run uses  {_line(of_run(config))}"]


def _recipe(config: RunConfig) -> RunConfig:
    return all_recipes().get(config.recipe, RunConfig())


def _stated(config: RunConfig) -> Preprocessing | None:
    """The preprocessing that is written beside `init.weights`; None if nothing is."""
    given = str(config.init.weights)
    if tagged := published(given):
        try:
            return published_preprocessing(*tagged)
        except WeightsError as error:
            raise ConfigError(str(error)) from None
    file = weights_file(given)
    try:
        return stated_preprocessing(file, config.model.name)
    except ConfigError as error:
        options = ", ".join(f"--{name}" for name in TAKEN)
        raise ConfigError(f"{error}. To start without reading it, give {options}") from None


def _line(view: Preprocessing) -> str:
    mean, std = (" ".join(f"{x:g}" for x in values) for values in (view.mean, view.std))
    return (
        f"mean {mean}, std {std}, crop_fraction {view.crop_fraction:g}, {view.interpolation}, "
        f"images of {view.size} pixels"
    )


def preprocessing(file: Path, name: str) -> Preprocessing:
    """What the network `name` expects of images, with the weights in `file`.

    As it is written beside them, or what torchvision's and timm's weights of this name usually
    expect. Raises as `stated_preprocessing`.
    """
    return stated_preprocessing(file, name) or default_preprocessing(name)


def stated_preprocessing(file: Path, name: str) -> Preprocessing | None:
    """What is written beside the weights in `file` about the images that they expect.

    In the .json of `convert`, or in a config.json: timm's, or that of the run whose directory the
    file lies in. None if there is neither.

    Raises:
      ConfigError: a file of that name which is none of these.
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
    """What a run does to the images that it evaluates."""
    view = {field: attrgetter(name)(config) for name, field in PREPROCESSING.items()}
    return Preprocessing(**view)


def options_of(view: Preprocessing) -> dict[str, Any]:
    """The inverse of `of_run`: the options of a run that does this to its images."""
    return {name: getattr(view, field) for name, field in PREPROCESSING.items()}
