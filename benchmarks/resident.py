"""Training fed by the host and from the devices, in turn, and how fast crops are drawn.

usage: resnet-jax bench resident RECIPE [options of the recipe]

Whole steps, images/s; evaluations, logs and checkpoints are left out. A small network
(`--model.width 4`) shows what the input costs.
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
    """Turns of each side."""
    steps: int = 40
    """Steps of a turn."""
    out: Path | None = None
    """Append the result to this file, as one line of JSON."""


class Side:
    """One of the two: its training goes on from turn to turn."""

    def __init__(self, config: RunConfig, resident: Any) -> None:
        self.run = Run(replace(config, data=replace(config.data, resident=resident)))
        since = time.perf_counter()
        self.dispatches: Dispatches = dispatches(
            self.run, 0, report=warn, stopped=lambda _: False, say=lambda _: None
        )
        self.opened = time.perf_counter() - since
        self.state = self.run.new_state()
        self.turn(3)  # compilation, and what comes after it

    def turn(self, steps: int) -> float:
        """images/s over so many steps."""
        since, done = time.perf_counter(), 0
        while done < steps:
            work = self.dispatches.next(steps - done)
            self.state, _ = self.dispatches.run(self.state, work)
            done += work.steps
        jax.block_until_ready(self.state)
        return steps * self.run.config.batch_size / (time.perf_counter() - since)


def plans_per_second(run: Run, steps: int = 400) -> float:
    """Plans of examples per second of one core, the best of three."""
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
    sides = {choice: Side(enough, choice) for choice in ("off", "on")}
    rates: dict[str, list[float]] = {choice: [] for choice in sides}
    for _ in range(given.turns):
        for choice, side in sides.items():
            rates[choice].append(side.turn(given.steps))
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
        "upload_seconds": round(sides["on"].opened, 2),
        "plans_per_second": round(plans_per_second(sides["on"].run)),
    }
    emit(row, given.out)
    for side in sides.values():
        side.dispatches.close()
