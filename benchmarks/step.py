"""Speed of complete training steps on random data on the device, against other systems.

usage: resnet-jax bench step [NAME[,BATCH[,PIXELS]] ...] [--peers flax torchvision ...] [options]

NAME is a recipe, or a network that trains like the recipe for its image size. Each system runs in
a separate process, compiled and warmed up before the measurement. The systems are measured in
rounds (A B C A B C ...), with a few timing samples each, while the others wait. A sample ends when
all results of its steps are computed. The result is ours / peer in each round, with its spread.

Peers: flax (linen, as in its example), haiku, jax-resnet, keras, torchvision, torchvision-compile,
and ours-plain-norm (`create_model(fuse_norm=False)`). flax+flags has the XLA_FLAGS and malloc
settings of ours.
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
"""Prefixes of the reasons for which an absent system is an error."""
CASES = ("resnet50,16,224", "resnet18,32,64", "resnet20_cifar,128,32")


@dataclass(frozen=True)
class StepArgs:
    """Options of `bench step`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    peers: tuple[str, ...] = ()
    """Other systems: flax, haiku, jax-resnet, keras, torchvision, torchvision-compile."""
    rounds: int = 7
    """Measurements of each system."""
    samples: int = 3
    """Timing samples per round; the rate of a round is that of their median."""
    warm_seconds: float = 1.0
    """Seconds of untimed steps after the first step; at least two steps."""
    devices: int = 1
    """Devices of ours; a peer has one."""
    seconds: float | None = None
    """Time limit per case: a system that is not ready by then is skipped, and rounds end after it;
    at least one round is measured. None: no limit."""
    out: Path | None = None
    """Append the results to this file, one line of JSON per case."""

    def __post_init__(self) -> None:
        for name in ("rounds", "samples", "devices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.seconds is not None and self.seconds <= 0:
            raise ConfigError(f"seconds {self.seconds}: must be positive")
        check_systems(self.peers)
        if self.peers and self.devices > 1:
            raise ConfigError(f"devices {self.devices}: with peers, must be 1")


def main(args: Sequence[str]) -> None:
    """Measures every case, and prints a line of JSON for each.

    Raises:
      RunError: a system failed or was not ready in time. A system that is not installed or does
        not have the network is skipped, with the reason in the row.
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
    """Measures one case with all systems.

    Raises:
      RunError: ours failed.
    """
    before = environment()
    names = ["ours", *(peer for peer in args.peers if peer != "ours")]
    end = None if args.seconds is None else time.monotonic() + args.seconds
    systems = start_all(
        names, args.config, devices=args.devices, warm_seconds=args.warm_seconds, end=end
    )
    try:
        present = [system for system in systems.values() if not system.absent]
        rounds: dict[str, list[list[Sample]]] = {system.name: [] for system in present}
        for done in range(args.rounds):
            if done and end is not None and time.monotonic() > end:
                break
            for system in present:
                taken = None if system.absent else system.measure(args.samples)
                if taken:
                    rounds[system.name].append(taken)
    finally:
        for system in systems.values():
            system.close()
    absent = {name: system.absent for name, system in systems.items() if system.absent}
    if "ours" in absent:
        raise RunError(f"ours: {absent['ours']}")
    complete = {name: found for name, found in rounds.items() if name not in absent}
    return {
        "benchmark": "step",
        **describe(args.config),
        **before,
        "devices": args.devices,
        **results(complete, args.config.batch_size),
        "systems": {
            name: _system_facts(systems[name], found, args) for name, found in complete.items()
        },
        "not_here": absent,
    }


def results(rounds: dict[str, list[list[Sample]]], batch_size: int) -> Row:
    """images/s of each system, and ours / peer in the same round."""
    rates = {
        name: [batch_size / statistics.median(s.seconds for s in samples) for samples in found]
        for name, found in rounds.items()
    }
    return {
        "images_per_second": {name: spread(values) for name, values in rates.items()},
        "ours_over": {
            name: spread([a / b for a, b in zip(rates["ours"], values, strict=True)])
            for name, values in rates.items()
            if name != "ours"
        },
    }


def _system_facts(system: System, rounds: list[list[Sample]], args: StepArgs) -> Row:
    found = dict(system.facts)
    seconds = [sample.seconds for samples in rounds for sample in samples]
    step = statistics.median(seconds)
    found["step_seconds"] = spread(seconds)
    found["loss"] = rounds[-1][-1].loss
    chip = chip_of(found.get("device", ""))
    found["mfu"] = found["share_of_roofline"] = None
    if chip:
        peak = chip.bf16_flops if args.config.precision == "bf16" else chip.fp32_flops
        found["mfu"] = model_flops(args.config) / step / (peak * args.devices)
        if "hbm_bytes" in found:
            # On a GPU the compiler does not count the FLOPs of library calls
            flops = max(found["flops"] or 0.0, model_flops(args.config) / args.devices)
            found["share_of_roofline"] = (
                max(flops / peak, found["hbm_bytes"] / chip.hbm_bandwidth) / step
            )
    return {name: _short(value) for name, value in found.items()}


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def model_flops(config: RunConfig) -> float:
    """FLOPs of a training step: 2 per multiply-add, times 3 for forward and backward pass.

    Counted from the network, not from the program (for MFU; Chowdhery 2022, appendix B).
    """
    spec = get_spec(config.model.name, **config.model.changes)
    classes = len(facts(config).train.class_names)
    _, multiply_adds, _ = totals(summarise(spec, classes, config.data.image_size))
    return 6.0 * multiply_adds * config.batch_size
