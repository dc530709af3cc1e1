"""`train`: trains a recipe, or resumes a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from train.cli.arguments import option_names, parse, take_preset
from train.cli.choose_recipe import choose, find_stored
from train.cli.usage import TRAIN_HELP
from train.config import RunConfig
from train.config.effects import check_effects
from train.console import warn
from train.recipes import get_recipe


@dataclass(frozen=True)
class TrainArgs:
    """Options of `train`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    workdir: Path
    """Directory of the run. The same command resumes the run, and so does `--workdir DIR` alone."""
    extend: Annotated[int, tyro.conf.UseCounterAction] = 0
    """Continue the run in the workdir with another --duration, or with other eval.*, checkpoint.*,
    patience or log_every."""


def train(args: list[str]) -> None:
    """Trains a recipe, or resumes the run in `--workdir`."""
    note = warning = ""
    if stored := find_stored(args):
        (recipe, workdir), options = stored, args
        name = recipe.recipe
    else:
        name, options, note, warning = choose(args)
        recipe, workdir = get_recipe(name), Path("runs") / name
    recipe, options = take_preset(recipe, options)
    about = TRAIN_HELP.format(name=name)
    start = TrainArgs(recipe, workdir)
    given: TrainArgs = parse(
        f"train {name}", about, TrainArgs, start, options, usage="train [RECIPE]"
    )
    warnings = [*filter(None, [warning]), *check_effects(given.config, recipe)]
    from train.data.workers import kill_workers
    from train.distributed.signals import StopSignal
    from train.runtime import set_malloc

    if note:
        print(note, flush=True)
    warn(*warnings)
    set_malloc()
    with StopSignal(kill_workers).install() as stop:
        from train.run.fit import fit  # takes a second, in which an interrupt would crash JAX

        extend = bool(given.extend)
        fit(given.config, given.workdir, stop=stop, extend=extend, given=option_names(options))
