"""Training a recipe within a time limit, and the accuracy that it reaches.

usage: resnet-jax bench training [RECIPE] --seconds 120 [options of the recipe]

A short run measures images/s, and the time of start and end. A second run then has as many steps as
fit, at most those of the recipe, with the schedule scaled to them and ten evaluations. A row is
written after each run; `--workdir DIR` keeps the second run.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.end_to_end import EndToEndArgs, train, train_rows
from benchmarks.record import Row, command, emit, environment, spread
from benchmarks.workloads import describe, read_case
from train.cli.arguments import parse
from train.config import ConfigError, RunConfig, to_steps

MARGIN = 0.85
"""Fraction of the remaining time that is planned for the second run, because rates vary."""


@dataclass(frozen=True)
class TrainingArgs:
    """Options of `bench training`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    seconds: float = 120.0
    """Time limit of both runs together, in seconds."""
    windows: int = 4
    """Timed windows of the short run, after one that is not timed."""
    steps: int = 390
    """Steps per window."""
    workdir: Path | None = None
    """Keep the second run here."""
    out: Path | None = None
    """Append the results to this file, two lines of JSON."""

    def __post_init__(self) -> None:
        for name in ("windows", "steps", "seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must be positive")


def main(args: Sequence[str]) -> None:
    """Trains twice, and prints two lines of JSON."""
    cut = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    if cut > 1:
        raise ConfigError(f"bench training takes one recipe, not {cut}")
    start = TrainingArgs(read_case(args[0] if cut else "digits"))
    given = parse("bench training", __doc__ or "", TrainingArgs, start, args[cut:])
    common = {**environment(), "command": command("training", args)}
    since = time.monotonic()
    first, rest = pilot(given)
    emit({**first, **common}, given.out)
    left = given.seconds - (time.monotonic() - since)
    images_per_second = first["images_per_second"]["median"]
    examples = first["examples"]
    steps = steps_that_fit(given.config, examples, images_per_second, left - rest)
    with tempfile.TemporaryDirectory() as folder:
        emit({**measure(given, steps, given.workdir or Path(folder) / "run"), **common}, given.out)


def steps_that_fit(
    config: RunConfig, examples: int, images_per_second: float, seconds: float
) -> int:
    """The steps that fit: at least 10, at most those of the recipe.

    >>> from train.recipes import get_recipe
    >>> steps_that_fit(get_recipe("cifar10-resnet20"), 50_000, 128_000.0, 40.0)
    34000
    >>> steps_that_fit(get_recipe("cifar10-resnet20"), 50_000, 128_000.0, 100.0)
    64000
    """
    full = to_steps(config.duration, examples=examples, batch_size=config.batch_size)
    return min(full, max(10, round(MARGIN * seconds * images_per_second / config.batch_size)))


def pilot(args: TrainingArgs) -> tuple[Row, float]:
    """The row of the short run, and its time without steps, in seconds.

    Raises:
      RunError: the run failed.
    """
    short = EndToEndArgs(args.config, args.windows, args.steps)
    since = time.monotonic()
    rows, examples = train_rows(short)
    took = time.monotonic() - since
    rates = spread([row["images_per_sec"] for row in rows])
    stepping = args.config.batch_size * args.steps * (args.windows + 1) / rates["median"]
    row = {
        "benchmark": "training_rate",
        **describe(args.config),
        "data": args.config.data.name,
        "resident": args.config.data.resident,
        "examples": examples,
        "images_per_second": rates,
        "seconds_an_epoch": round(examples / rates["median"], 2),
    }
    return row, max(took - stepping, 0.0)


def measure(args: TrainingArgs, steps: int, workdir: Path) -> Row:
    """Measures a complete run with this number of steps.

    Raises:
      RunError: the run failed.
    """
    from train.learn.tasks import make_task  # imports JAX

    config = args.config
    config = replace(
        config,
        duration=f"{steps}st",
        log_every=f"{max(steps // 20, 1)}st",
        eval=replace(config.eval, every=f"{max(steps // 10, 1)}st"),
        checkpoint=replace(config.checkpoint, every=""),
    )
    since = time.monotonic()
    train(config, workdir)
    took = time.monotonic() - since
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if row["split"] == "eval"]
    examples = json.loads((workdir / "config.json").read_text())["examples"]["train"]
    last = evaluations[-1]
    metric = make_task(config).headline
    return {
        "benchmark": "training",
        **describe(config),
        "data": config.data.name,
        "steps": steps,
        "recipe_steps": to_steps(
            args.config.duration, examples=examples, batch_size=config.batch_size
        ),
        "epochs": round(steps * config.batch_size / examples, 2),
        "seed": config.seed,
        "seconds": round(took, 1),
        "evaluated_on": last["examples"],
        metric.name: last[metric.name],
        f"best_{metric.name}": metric.best([row[metric.name] for row in evaluations]),
        "eval_loss": last["loss"],
    }
