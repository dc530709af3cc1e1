"""Training fed by the host and from the devices, in turn, and the rate at which plans are made.

    python -m benchmarks.resident digits --model.width 4
    python -m benchmarks.resident cifar10-resnet20 --data.dir DIR --model.width 4

Every recipe and option of `train`; whole steps, images/s; evaluations, logs and checkpoints are
left out. A small network shows what the input costs. Appends a JSON line to results/resident.jsonl.
"""

import importlib.metadata
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from train.arguments import parse, split
from train.config import RunConfig
from train.data.resident import plans
from train.dispatch import Dispatches, dispatches
from train.progress import warn
from train.recipes import get_recipe
from train.run import Run, use_compilation_cache

RESULTS = Path(__file__).parent / "results" / "resident.jsonl"


@dataclass(frozen=True)
class Args:
    """A run that is not kept."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    turns: int = 5
    """Turns of each side."""
    steps: int = 40
    """Steps of a turn."""
    out: Path | None = RESULTS
    """Where the JSON line goes."""


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
        order = {"batch_size": config.batch_size, "start": turn * steps, "stop": 10**9}
        made = plans(len(run.splits.train), config.augment, seed=config.seed, **order)
        since = time.process_time()
        list(islice(made, steps))
        found.append(steps * config.batch_size / (time.process_time() - since))
    return max(found)


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    names, options = split(sys.argv[1:], "RECIPE")
    args = parse(
        "bench",
        "Input from the host and from the devices.",
        Args,
        Args(get_recipe(names[0])),
        options,
    )
    use_compilation_cache(args.config.compilation_cache)
    enough = replace(args.config, duration=f"{(args.turns + 1) * args.steps}st")
    sides = {choice: Side(enough, choice) for choice in ("off", "on")}
    rates: dict[str, list[float]] = {choice: [] for choice in sides}
    for _ in range(args.turns):
        for choice, side in sides.items():
            rates[choice].append(side.turn(args.steps))
    pairs = [on / off for off, on in zip(rates["off"], rates["on"], strict=True)]
    device = jax.devices()[0]
    row = {
        "command": " ".join(sys.argv[1:]),
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "numpy", "grain")},
        "turns": args.turns,
        "steps": args.steps,
        "host": spread(rates["off"]),
        "resident": spread(rates["on"]),
        "ratio": spread(pairs),
        "upload_seconds": round(sides["on"].opened, 2),
        "plans_per_second": round(plans_per_second(sides["on"].run)),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(row))
    if args.out:
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    for side in sides.values():
        side.dispatches.close()


if __name__ == "__main__":
    main()
