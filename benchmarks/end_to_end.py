"""Speed of training on real image files, and its fraction of waiting for input.

usage: resnet-jax bench end_to_end [RECIPE] --data.dir DIR [options of the recipe]

Two measurements of one config. The first is `resnet-jax train` in a separate process: its rows have
images/s and the fraction of time that it waited for input. The first window is skipped, because it
includes compilation. The second is the step alone, on random data on the device. Their ratio is the
cost of the input. The evaluation at the end of the run is not measured, but takes time: use a small
`--data.eval_split`.
"""

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.interleaved import System
from benchmarks.record import Row, command, emit, environment, spread
from benchmarks.workloads import describe, read_case
from train.cli.arguments import parse
from train.config import ConfigError, RunConfig, RunError
from train.runtime import set_malloc


@dataclass(frozen=True)
class EndToEndArgs:
    """Options of `bench end_to_end`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    windows: int = 5
    """Timed windows, after one that is not timed."""
    steps: int = 20
    """Steps per window."""
    out: Path | None = None
    """Append the result to this file, as one line of JSON."""

    def __post_init__(self) -> None:
        for name in ("windows", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")


def main(args: Sequence[str]) -> None:
    """Measures, and prints a line of JSON."""
    cut = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    if cut > 1:
        raise ConfigError(f"bench end_to_end takes one recipe, not {cut}")
    start = EndToEndArgs(read_case(args[0] if cut else "imagenet-resnet50"))
    given = parse("bench end_to_end", __doc__ or "", EndToEndArgs, start, args[cut:])
    emit({**measure(given), "command": command("end_to_end", args)}, given.out)


def measure(args: EndToEndArgs) -> Row:
    """Measures the run, then the step alone.

    Raises:
      RunError: the run failed.
    """
    before = environment()
    rows, examples = train_rows(args)
    system = System("ours", args.config)
    rounds = [system.measure(3) for _ in range(args.windows)] if not system.absent else []
    system.close()
    if system.absent:
        raise RunError(f"the step alone: {system.absent}")
    batch = args.config.batch_size
    alone = [batch / sample.seconds for samples in rounds for sample in samples or []]
    rates = [row["images_per_sec"] for row in rows]
    step_only = spread(alone)
    return {
        "benchmark": "end_to_end",
        **describe(args.config),
        "data": args.config.data.name,
        "threads": args.config.data.threads,
        "workers": args.config.data.workers,
        "device": system.facts.get("device"),
        **before,
        "steps_a_window": args.steps,
        "images_per_second": spread(rates),
        "input_wait": spread([row["input_wait"] for row in rows]),
        "step_only_images_per_second": step_only,
        "seconds_an_epoch": round(examples / spread(rates)["median"], 2),
        "of_step_only": spread([rate / step_only["median"] for rate in rates]),
    }


def train_rows(args: EndToEndArgs) -> tuple[list[Row], int]:
    """The training rows of a run's `metrics.jsonl` but the first, and its number of examples.

    Raises:
      RunError: the run failed.
    """
    steps = args.steps * (args.windows + 1)
    config = replace(
        args.config,
        duration=f"{steps}st",
        log_every=f"{args.steps}st",
        optim=replace(args.config.optim, warmup="0st", schedule="constant"),
        eval=replace(args.config.eval, every=f"{steps}st"),
        checkpoint=replace(args.config.checkpoint, every=""),
    )
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        train(config, workdir)
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        examples = json.loads((workdir / "config.json").read_text())["examples"]["train"]
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row["split"] == "train"][1:], examples


def train(config: RunConfig, workdir: Path) -> None:
    """Trains like `resnet-jax train`, in a separate process.

    Raises:
      RunError: the run failed; the process printed the reason.
    """
    child = multiprocessing.get_context("spawn").Process(target=_train, args=(config, workdir))
    child.start()
    child.join()
    if child.exitcode:
        raise RunError(f"the run failed with exit code {child.exitcode}")


def _train(config: RunConfig, workdir: Path) -> None:
    set_malloc()
    from train.run.fit import fit

    try:
        fit(config, workdir, quiet=True)
    except (ConfigError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
