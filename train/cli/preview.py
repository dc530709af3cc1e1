"""`preview`: writes a page of what the network sees."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from train.cli.arguments import parse
from train.cli.choose_recipe import required_recipe
from train.cli.usage import PREVIEW_HELP
from train.config import ConfigError, RunConfig
from train.config.base import seconds_in
from train.config.effects import changes, check_effects
from train.config.serialize import to_json
from train.console import warn
from train.paths import expand

_SHOWN = ("recipe", "seed", "data.", "augment.", "mix.", "eval.crop_fraction", "eval.interpolation")
"""Options that are shown on the page if they are not the default."""


@dataclass(frozen=True)
class PreviewArgs:
    """Options of `preview`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    out: Path = Path("preview.html")
    """The page. An existing file is replaced."""
    images: int = 8
    """Number of training images."""
    draws: int = 10
    """Number of draws of each image, one for each of the first epochs."""


def preview(args: list[str]) -> None:
    """Writes a page of training images, as a recipe crops, augments and mixes them."""
    recipe, options = required_recipe(args, "preview RECIPE --data.dir DIR")
    given: PreviewArgs = parse(
        f"preview {recipe.recipe}",
        PREVIEW_HELP.format(name=recipe.recipe),
        PreviewArgs,
        PreviewArgs(recipe),
        options,
        usage="preview RECIPE",
    )
    for option, value in (("images", given.images), ("draws", given.draws)):
        if value < 1:
            raise ConfigError(f"--{option} {value}: must be at least 1")
    warn(*check_effects(given.config, recipe))
    _write(given, expand(given.out))


def _write(given: PreviewArgs, file: Path) -> None:
    from train.report.preview import write_preview
    from train.run.parts import Run
    from train.run.preview import views

    if not file.parent.is_dir():
        raise ConfigError(f"--out {file}: the directory {file.parent} does not exist")
    run = Run(_in_steps(given.config))
    if start := given.config.augment.size_start:
        warn(
            f"training images are shown with {given.config.data.image_size} pixels on a side, as "
            f"at the end of the run; it begins with {start}"
        )
    seen = views(run, images=given.images, draws=given.draws)
    changed = changes(given.config, RunConfig())
    title = f"{given.config.recipe}: what the network sees"
    options = {name: value for name, value in changed.items() if name.startswith(_SHOWN)}
    try:
        write_preview(
            *(file, seen, run.class_names),
            title=title,
            options=options,
            config=to_json(given.config),
        )
    except OSError as error:
        raise ConfigError(f"--out {file}: {error.strerror}") from None
    print(f"{file}: {len(seen)} images in {given.draws} draws, {file.stat().st_size:,} bytes")


def _in_steps(config: RunConfig) -> RunConfig:
    """`config` with steps in place of a duration in hours: so many that none is the last one."""
    return config if seconds_in(config.duration) is None else replace(config, duration="1000000st")
