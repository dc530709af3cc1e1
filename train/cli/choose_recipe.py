"""The recipe, or the stored run, that a command line selects."""

import contextlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from resnet_jax.zoo import ZOO
from train.cli.arguments import HELP, take_preset
from train.config import ConfigError, RunConfig
from train.data.sources.prepare_hint import tfds_sets
from train.paths import expand
from train.recipes import all_recipes, get_recipe

DEFAULT = "digits"


class Choice(NamedTuple):
    """A recipe, the other arguments, and messages for the user."""

    recipe: str
    options: list[str]
    note: str = ""
    warning: str = ""


def take_recipe(args: Sequence[str]) -> tuple[str | None, list[str]]:
    """The recipe among the arguments, at any position, and the other arguments.

    If the first argument is an option, the recipe is the first word that is a recipe's name and
    does not directly follow an option: it would be the value of that option.

    >>> take_recipe(["--data.dir", "photos", "folder", "--seed", "1"])
    ('folder', ['--data.dir', 'photos', '--seed', '1'])
    >>> take_recipe(["--data.name", "folder"])
    (None, ['--data.name', 'folder'])
    """
    if args and not args[0].startswith("-"):
        return args[0], list(args[1:])
    recipes = all_recipes()
    for i in range(1, len(args)):
        before = args[i - 1]
        is_value = before.startswith("--") and "=" not in before and before not in HELP
        if args[i] in recipes and not is_value:
            return args[i], [*args[:i], *args[i + 1 :]]
    return None, list(args)


def required_recipe(
    args: Sequence[str], usage: str, default: str = DEFAULT
) -> tuple[RunConfig, list[str]]:
    """The recipe of a command that needs one, with `--augment.preset`, and the other arguments.

    Args:
      usage: of the command, for the message, such as "lr-find RECIPE".
      default: the recipe whose options the help shows, if none is named.

    Raises:
      ConfigError: no recipe is named and no help requested; there is no such recipe or preset.
    """
    name, options = take_recipe(args)
    if name is None and not set(HELP) & set(args):
        raise ConfigError(
            f"the recipe is missing: resnet-jax {usage}; `resnet-jax recipes` lists them"
        )
    return take_preset(get_recipe(name or default), options)


def choose(args: Sequence[str]) -> Choice:
    """The recipe of `resnet-jax train ARGS`.

    If none is named, it is `folder` if `--data.dir` is a folder, else `digits`.

    Raises:
      ConfigError: a folder or a file in place of a recipe, or a `--data.dir` that needs a recipe's
        name.
    """
    name, options = take_recipe(args)
    if name is not None:
        if name in ZOO:
            raise ConfigError(
                f"{name!r} is a network, not a recipe: resnet-jax train RECIPE --model.name {name}"
            )
        if name not in all_recipes() and (os.sep in name or Path(name).exists()):
            raise ConfigError(
                f"{name!r} is not a recipe; for a folder of photos: "
                f"resnet-jax train folder --data.dir {name}"
            )
        return Choice(name, options)
    where, data = _value("--data.dir", options), _value("--data.name", options)
    if data not in (None, DEFAULT, "synthetic") and _value("--data.image_size", options) is None:
        size = all_recipes()[DEFAULT].data.image_size
        return Choice(
            *(DEFAULT, options),
            warning=f"no recipe is named, so --data.name {data} is trained as {DEFAULT} is, on "
            f"images of {size}x{size} pixels; `resnet-jax recipes` lists the recipes",
        )
    if where is None or data is not None:
        return Choice(DEFAULT, options)
    path = expand(where, "data.dir")
    if path.suffix.lower() == ".csv":
        raise ConfigError(
            f"--data.dir {where} is a CSV file: name the recipe and the kind of data: resnet-jax "
            f"train folder --data.name csv --data.dir {where}"
        )
    if path.is_file():
        raise ConfigError(
            f"--data.dir {where} is a file: name the recipe, and the kind of data if it is an "
            f".npz file: resnet-jax train digits --data.name npz --data.dir {where}"
        )
    if sets := tfds_sets(path):
        raise ConfigError(
            f"--data.dir {where} holds the TFDS data set {', '.join(sets)}: name a recipe for it "
            f"(`resnet-jax recipes`), as in: resnet-jax train cifar10-resnet20 --data.dir {where}"
        )
    return Choice(
        "folder", options, "no recipe is named and --data.dir is given: training the recipe folder"
    )


def find_stored(args: Sequence[str]) -> tuple[RunConfig, Path] | None:
    """The run in `--workdir` that `resnet-jax train ARGS` resumes when no recipe is named.

    Without `--workdir`, it is the run in `runs/digits`, if there is one.

    Returns:
      The run's config, before the options change it, and its directory; None: the command starts a
      new run, of the recipe that `choose` returns. `mesh.coordinator`, `mesh.processes` and
      `mesh.process_id` are reset: they belong to one start, not to the run.

    Raises:
      ConfigError: `--workdir` has no run to resume, and no recipe or data is named; or the run's
        config cannot be read.
    """
    name, options = take_recipe(args)
    where = _value("--workdir", options)
    names_data = any(_value(f"--data.{key}", options) for key in ("dir", "name"))
    if name is not None or (where is None and names_data):
        return None
    from train.run.directory import is_empty, read_config

    workdir = expand(where or Path("runs") / DEFAULT, "workdir")
    if not is_empty(workdir):
        config = read_config(workdir)
        mesh = replace(config.mesh, coordinator=None, processes=None, process_id=None)
        return replace(config, mesh=mesh), workdir
    if where is None or names_data or set(HELP) & set(args):
        return None
    raise ConfigError(_no_run(workdir))


def _no_run(workdir: Path) -> str:
    """The message: why `--workdir` alone does not resume a run, and what to write instead."""
    from train.run.directory import read_config

    recipe, found = "RECIPE", "no run"
    if (workdir / "config.json").is_file():
        found = "config.json of a run that saved no checkpoint"
        with contextlib.suppress(ConfigError):
            recipe = read_config(workdir).recipe
            found += f" (recipe {recipe})"
    return (
        f"--workdir {str(workdir)!r} holds {found}; to start one there, name a recipe: "
        f"resnet-jax train {recipe} --workdir {shlex.quote(str(workdir))}"
    )


def _value(flag: str, options: Sequence[str]) -> str | None:
    """The value of an option; if it is given several times, the last."""
    found = None
    for i, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name.replace("-", "_") == flag.replace("-", "_"):
            found = value if equals else (options[i + 1] if i + 1 < len(options) else None)
    return found
