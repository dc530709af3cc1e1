"""Training with images from the host against images on the device; speed of sampling crops.

usage: resnet-jax bench resident RECIPE [options of the recipe]

Measures whole steps in images/s, without evaluations, logs and checkpoints, in alternation. With a
small network (`--model.width 4`), the input takes most of the time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from benchmarks.record import command, emit, environment, spread
from benchmarks.workloads import describe
from train.cli.arguments import parse, split
from train.config import RunConfig
from train.console import warn
from train.data.on_device import crop_params
from train.recipes import get_recipe
from train.run.dispatch import Dispatches, dispatches
from train.run.parts import Run
from train.runtime import set_xla_flags, use_compilation_cache


@dataclass(frozen=True)
class ResidentArgs:
    """Options of `bench resident`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    turns: int = 5
    """Measurements of each of the two."""
    steps: int = 40
    """Steps per measurement."""
    out: Path | None = None
    """Append the result to this file, as one line of JSON."""


class Training:
    """One of the two trainings; it continues from measurement to measurement."""

    def __init__(self, config: RunConfig, resident: Any) -> None:
        self.run = Run(replace(config, data=replace(config.data, resident=resident)))
        since = time.perf_counter()
        self.dispatches: Dispatches = dispatches(
            self.run, 0, report=warn, stopped=lambda _: False, say=lambda _: None
        )
        self.opened = time.perf_counter() - since
        self.state = self.run.new_state()
        self.measure(3)  # compilation and first steps

    def measure(self, steps: int) -> float:
        """Trains `steps` steps; returns images/s."""
        since, done = time.perf_counter(), 0
        while done < steps:
            work = self.dispatches.next(steps - done)
            self.state, _ = self.dispatches.run(self.state, work)
            done += work.steps
        jax.block_until_ready(self.state)
        return steps * self.run.config.batch_size / (time.perf_counter() - since)


def plans_per_second(run: Run, steps: int = 400) -> float:
    """Crops sampled per second of CPU time, the best of three."""
    config, found = run.config, []
    for turn in range(3):
        made = crop_params(
            len(run.splits.train),
            config.augment,
            seed=config.seed,
            batch_size=config.batch_size,
            start=turn * steps,
            stop=10**9,
        )
        since = time.process_time()
        list(islice(made, steps))
        found.append(steps * config.batch_size / (time.process_time() - since))
    return max(found)


def main(args: Sequence[str]) -> None:
    """Measures, and prints a line of JSON."""
    names, options = split(list(args), "the recipe")
    start = ResidentArgs(get_recipe(names[0] if names else "digits"))
    given = parse("bench resident", __doc__ or "", ResidentArgs, start, options)
    set_xla_flags()
    use_compilation_cache(given.config.compilation_cache)
    enough = replace(given.config, duration=f"{(given.turns + 1) * given.steps}st")
    trainings = {choice: Training(enough, choice) for choice in ("off", "on")}
    rates: dict[str, list[float]] = {choice: [] for choice in trainings}
    for _ in range(given.turns):
        for choice, training in trainings.items():
            rates[choice].append(training.measure(given.steps))
    pairs = [on / off for off, on in zip(rates["off"], rates["on"], strict=True)]
    row = {
        **environment(),
        "benchmark": "resident",
        **describe(given.config),
        "command": command("resident", args),
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "steps_a_turn": given.steps,
        "host_images_per_second": spread(rates["off"]),
        "resident_images_per_second": spread(rates["on"]),
        "resident_over_host": spread(pairs),
        "upload_seconds": round(trainings["on"].opened, 2),
        "plans_per_second": round(plans_per_second(trainings["on"].run)),
    }
    emit(row, given.out)
    for training in trainings.values():
        training.dispatches.close()
