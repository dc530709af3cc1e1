"""Whole training steps on random data that are on the device: how fast, and beside others.

usage: resnet-jax bench step [NAME[,BATCH[,PIXELS]] ...] [--peers flax torchvision ...] [options]

NAME is a recipe, or a network that trains as the recipe of its kind of data. Each system runs in
a process of its own, compiled and warm before anything is measured; then they take turns
(A B C A B C ...), a few timing samples a turn, while the others wait. Every sample waits for all
that its steps compute. The result is ours / peer, by the round, with its spread.

Peers: flax (linen as its example has it), haiku, jax-resnet, keras, torchvision,
torchvision-compile, and ours-plain-norm (`create_model(fuse_norm=False)`); flax+flags has the
XLA_FLAGS and the heaps of malloc that ours sets.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.interleaved import ENDED, LATE, Sample, System, start_all
from benchmarks.record import Row, command, emit, environment, spread
from benchmarks.systems.registry import check_systems
from benchmarks.workloads import describe, facts, read_case
from resnet_jax.summary import summarise, totals
from resnet_jax.zoo import get_spec
from train.cli.arguments import parse
from train.config import ConfigError, RunConfig, RunError
from train.plan.chips import chip_of

BROKEN = (ENDED, LATE)
"""How the reasons begin of a system that is missing from a row and should not be."""
CASES = ("resnet50,16,224", "resnet18,32,64", "resnet20_cifar,128,32")


@dataclass(frozen=True)
class StepArgs:
    """Options of `bench step`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    peers: tuple[str, ...] = ()
    """Systems beside ours: flax, haiku, jax-resnet, keras, torchvision, torchvision-compile."""
    rounds: int = 7
    """Turns of each system."""
    samples: int = 3
    """Timing samples a turn; its rate is that of their median."""
    warm_seconds: float = 1.0
    """Steps that nobody times, for so long and at least two, behind the first."""
    devices: int = 1
    """Of those here, for ours; a peer has one."""
    seconds: float | None = None
    """For each case: a system that is not ready by then is left out, and the turns end, after one
    round at least. None: no limit."""
    out: Path | None = None
    """Append the results to this file, a line of JSON for each case."""

    def __post_init__(self) -> None:
        for name in ("rounds", "samples", "devices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.seconds is not None and self.seconds <= 0:
            raise ConfigError(f"seconds {self.seconds}: must be positive")
        check_systems(self.peers)
        if self.peers and self.devices > 1:
            raise ConfigError(f"devices {self.devices}: a comparison has one")


def main(args: Sequence[str]) -> None:
    """Measures every case, and prints a line of JSON for each.

    Raises:
      RunError: a system failed or was late. One that is not installed, or has no such network, is
        left out, and the row says so.
    """
    cut = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    names, options = args[:cut] or CASES, args[cut:]
    given = [
        parse("bench step", __doc__ or "", StepArgs, StepArgs(read_case(name)), options)
        for name in names
    ]
    failed: dict[str, str] = {}
    for each in given:
        row = measure(each)
        emit({**row, "command": command("step", args)}, each.out)
        failed |= {name: why for name, why in row["not_here"].items() if why.startswith(BROKEN)}
    if failed:
        raise RunError("; ".join(f"{name}: {why}" for name, why in failed.items()))


def measure(args: StepArgs) -> Row:
    """One case, every system in turn.

    Raises:
      RunError: ours did not get through.
    """
    before = environment()
    names = ["ours", *(peer for peer in args.peers if peer != "ours")]
    end = None if args.seconds is None else time.monotonic() + args.seconds
    systems = start_all(
        names, args.config, devices=args.devices, warm_seconds=args.warm_seconds, end=end
    )
    try:
        here = [system for system in systems.values() if not system.absent]
        turns: dict[str, list[list[Sample]]] = {system.name: [] for system in here}
        for done in range(args.rounds):
            if done and end is not None and time.monotonic() > end:
                break
            for system in here:
                taken = None if system.absent else system.turn(args.samples)
                if taken:
                    turns[system.name].append(taken)
    finally:
        for system in systems.values():
            system.close()
    absent = {name: system.absent for name, system in systems.items() if system.absent}
    if "ours" in absent:
        raise RunError(f"ours: {absent['ours']}")
    whole = {name: found for name, found in turns.items() if name not in absent}
    return {
        "benchmark": "step",
        **describe(args.config),
        **before,
        "devices": args.devices,
        **results(whole, args.config.batch_size),
        "systems": {
            name: _system_facts(systems[name], found, args) for name, found in whole.items()
        },
        "not_here": absent,
    }


def results(turns: dict[str, list[list[Sample]]], batch_size: int) -> Row:
    """images/s of each system, and ours / peer in the same round."""
    rates = {
        name: [batch_size / statistics.median(s.seconds for s in turn) for turn in found]
        for name, found in turns.items()
    }
    return {
        "images_per_second": {name: spread(values) for name, values in rates.items()},
        "ours_over": {
            name: spread([a / b for a, b in zip(rates["ours"], values, strict=True)])
            for name, values in rates.items()
            if name != "ours"
        },
    }


def _system_facts(system: System, turns: list[list[Sample]], args: StepArgs) -> Row:
    said = dict(system.facts)
    seconds = [sample.seconds for turn in turns for sample in turn]
    step = statistics.median(seconds)
    said["step_seconds"] = spread(seconds)
    said["loss"] = turns[-1][-1].loss
    chip = chip_of(said.get("device", ""))
    said["mfu"] = said["share_of_roofline"] = None
    if chip:
        peak = chip.bf16_flops if args.config.precision == "bf16" else chip.fp32_flops
        said["mfu"] = model_flops(args.config) / step / (peak * args.devices)
        if "hbm_bytes" in said:
            # On a GPU a library's convolutions are not in the compiler's count
            flops = max(said["flops"] or 0.0, model_flops(args.config) / args.devices)
            said["share_of_roofline"] = (
                max(flops / peak, said["hbm_bytes"] / chip.hbm_bandwidth) / step
            )
    return {name: _short(value) for name, value in said.items()}


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def model_flops(config: RunConfig) -> float:
    """FLOPs of a training step: 2 for a multiply-add, and 3 of the forward pass of the network.

    Of the network as published, whatever a program computes (MFU: Chowdhery 2022, appendix B).
    """
    spec = get_spec(config.model.name, **config.model.changes)
    classes = len(facts(config).train.class_names)
    _, multiply_adds, _ = totals(summarise(spec, classes, config.data.image_size))
    return 6.0 * multiply_adds * config.batch_size
