"""`lr-find`: the learning-rate range test of a recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from train.cli.arguments import parse
from train.cli.choose_recipe import required_recipe
from train.cli.usage import LR_FIND_HELP
from train.config import RunConfig
from train.config.base import check, is_finite
from train.config.effects import check_effects
from train.console import warn


@dataclass(frozen=True)
class LrFindArgs:
    """Options of `lr-find`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    folder: Path
    """Where lr-find.svg and lr-find.csv are written."""
    steps: int = 200
    """Number of steps of the test."""
    lowest: float = 1e-5
    """optim.lr of the first step."""
    highest: float = 10.0
    """optim.lr of the last step."""

    def __post_init__(self) -> None:
        check("--steps", self.steps, self.steps >= 10, "must be at least 10")
        check("--lowest", self.lowest, self.lowest > 0, "must be positive")
        good = self.lowest < self.highest and is_finite(self.highest)
        check(
            "--highest", self.highest, good, f"must be finite, and above --lowest {self.lowest:g}"
        )


def lr_find(args: list[str]) -> None:
    """Trains with a growing learning rate; prints a suggestion and writes the curve."""
    usage = "lr-find RECIPE"
    recipe, options = required_recipe(args, usage)
    start = LrFindArgs(recipe, Path("runs") / "lr-find" / recipe.recipe)
    given: LrFindArgs = parse(
        f"lr-find {recipe.recipe}", LR_FIND_HELP, LrFindArgs, start, options, usage=usage
    )
    warn(*check_effects(given.config, recipe))
    from train.paths import expand
    from train.studies.lr_find import describe, find, suggest, write

    folder = expand(str(given.folder), "folder")
    curve = find(given.config, steps=given.steps, lowest=given.lowest, highest=given.highest)
    title = f"{recipe.recipe}, batch {given.config.batch_size}"
    files = write(curve, folder, title)
    for line in describe(curve, given.steps):
        print(line)
    print(f"written: {', '.join(map(str, files))}")
    print(f"--optim.lr {suggest(curve).suggested:g}")
