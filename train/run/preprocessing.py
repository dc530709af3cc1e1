"""The preprocessing of given weights, taken over by the run that starts from them.

Weights expect images that were normalised as those they were trained on. What they expect is
written beside them: in the .json of `convert`, in the config.json of timm or of a run.
"""

from collections.abc import Collection
from pathlib import Path

from resnet_jax import Preprocessing, WeightsError
from resnet_jax.weights.pretrained import default_preprocessing, published_preprocessing
from train.checkpoint.weights import (
    PREPROCESSING,
    of_run,
    options_of,
    published,
    stated_preprocessing,
    weights_file,
)
from train.config import ConfigError, RunConfig
from train.config.serialize import flatten, to_json, with_options
from train.recipes import all_recipes
from train.run.parts import read_config

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
