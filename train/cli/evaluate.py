"""`eval`: evaluates a checkpoint of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from resnet_jax.zoo import ZOO
from train.cli.arguments import parse, split
from train.cli.usage import EVAL_COMMON, EVAL_HELP
from train.config import ConfigError, RunConfig
from train.config.effects import accepted_by_eval, check_applicable
from train.console import warn
from train.paths import expand


@dataclass(frozen=True)
class EvalArgs:
    """Options of `eval`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    checkpoint: str = "best"
    """best, last, or a step."""


def evaluate(args: list[str]) -> None:
    """Evaluates a checkpoint of a run. The last line of stdout is one JSON object."""
    names, options = split(args, "the run directory")
    workdir, config = _run_dir(names)
    given: EvalArgs = parse(
        "eval DIR",
        EVAL_HELP,
        EvalArgs,
        EvalArgs(config),
        options,
        common=EVAL_COMMON,
        accepts=accepted_by_eval,
        has_defaults=bool(names),
    )
    warn(*check_applicable("eval", config, given.config, accepted_by_eval))
    from train.inference.evaluate import evaluate_run
    from train.report.metrics_file import to_line
    from train.run.start_screen import accelerator_warnings

    warn(*accelerator_warnings())
    print(to_line(evaluate_run(given.config, workdir, given.checkpoint)), end="")


def _run_dir(names: list[str]) -> tuple[Path, RunConfig]:
    """The directory of the run that the first name gives, and its config."""
    if not names:  # --help without a run
        return Path(), RunConfig()
    if len(names) > 1:
        raise ConfigError(
            f"eval takes one run directory, not {len(names)}: {names[1]!r} is too much. "
            "--checkpoint best, last or a step chooses the checkpoint"
        )
    if names[0] in ZOO:
        raise ConfigError(
            f"{names[0]!r} is a network without weights: name the directory of a run instead"
        )
    from train.run.directory import read_config

    workdir = expand(names[0])
    return workdir, read_config(workdir)
