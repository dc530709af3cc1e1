"""The training step compiled ahead of time for a chip: kernels, library calls, memory.

usage: resnet-jax bench program [NAME[,BATCH[,PIXELS]] ...] --topology h200 [--systems ours flax]

The chip may be unavailable; no step is run. `kernels` counts all kernels that the main program
starts, including `fusions` and `custom_calls` (a library's convolutions). `small` counts those that
access less than a megabyte, whose time is mostly the launch. `activation_copies` counts copies and
transposes of whole maps. `modelled_ms` is HBM traffic divided by the chip's bandwidth, not a
measurement: without the device, the compiler may choose slower kernels.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.record import Row, command, emit, environment
from benchmarks.systems.registry import check_systems, missing
from benchmarks.workloads import Unsupported, describe, read_case
from train.cli.arguments import parse
from train.config import ConfigError, RunConfig
from train.plan import hlo
from train.plan.compile import compiler_stats
from train.plan.topology import check_compiler, devices, parse_topology, prepare_environment

_SMALL = 1_000_000  # bytes
_MAP = re.compile(r"\s*(?:ROOT )?%?[\w.\-]*(?:copy|transpose)[\w.\-]* = \w+\[(\d+),")


@dataclass(frozen=True)
class ProgramArgs:
    """Options of `bench program`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    topology: str = "h200"
    """One chip: h200, h100, a100-80, v5e:1x1, v6e:1x1 ..."""
    systems: tuple[str, ...] = ("ours", "ours-plain-norm", "flax")
    """Ours and peers in JAX."""
    hlo: Path | None = None
    """Write the texts of the programs (HLO) to this folder."""
    out: Path | None = None
    """Append the results to this file, one line of JSON per case."""

    def __post_init__(self) -> None:
        check_systems(self.systems)
        if torch := [name for name in self.systems if name.startswith("torch")]:
            raise ConfigError(f"systems {torch[0]!r}: must be a system in JAX")


def main(args: Sequence[str]) -> None:
    """Compiles every case, and prints a line of JSON for each."""
    cut = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    for name in args[:cut] or ("resnet50,128",):
        given = parse(
            "bench program", __doc__ or "", ProgramArgs, ProgramArgs(read_case(name)), args[cut:]
        )
        emit({**measure(given), "command": command("program", args)}, given.out)


def measure(args: ProgramArgs) -> Row:
    """One case, every system.

    Raises:
      ConfigError: an unknown topology, or no compiler for it is installed.
    """
    topology = parse_topology(args.topology)
    if topology.chips > 1 and args.systems != ("ours",):
        raise ConfigError(
            f"topology {args.topology!r}: peers run on one chip; choose one chip or only ours"
        )
    compiler = check_compiler(topology.chip)
    prepare_environment()
    from benchmarks.systems.jax_systems import BUILDERS

    chips = devices(topology)
    found: dict[str, Row] = {}
    absent: dict[str, str] = {}
    for name in args.systems:
        try:
            if reason := missing(name):
                raise Unsupported(reason)
            program = BUILDERS[name](args.config, chips)
        except Unsupported as error:
            absent[name] = str(error)
            continue
        traced = program.step.trace(program.abstract_state, program.abstract_batch)
        compiled = traced.lower(lowering_platforms=(topology.chip.platform,)).compile()
        text = compiled.as_text()
        if args.hlo:
            args.hlo.mkdir(parents=True, exist_ok=True)
            (args.hlo / f"{name}.txt").write_text(text)
        stats = {
            **compiler_stats(compiled),
            **count(text, args.config.batch_size // topology.chips),
        }
        stats["modelled_ms"] = round(1e3 * stats["hbm_bytes"] / topology.chip.hbm_bandwidth, 2)
        found[name] = stats
    return {
        "benchmark": "program",
        **describe(args.config),
        "device": topology.name,
        "compiler": compiler,
        **environment(),
        "systems": found,
        "not_here": absent,
    }


def count(text: str, batch: int) -> Row:
    """Counts the kernels of an optimised program by kind; maps are recognised by `batch`."""
    kinds: Counter[str] = Counter()
    results: dict[str, int] = {}
    small = 0
    for it in hlo.instructions(text):
        if it.computation != "ENTRY":
            continue
        results[it.name] = sum(buffer.bytes for buffer in it.result)
        if it.kind in hlo.FREE or it.kind.endswith(("-done", "-update")):
            continue
        kinds[it.kind] += 1
        touched = results[it.name] + sum(results.get(name, 0) for name in set(it.operands))
        small += touched < _SMALL
    return {
        "kernels": kinds.total(),
        "small": small,
        "fusions": kinds["fusion"],
        "copies": kinds["copy"],
        "custom_calls": dict(hlo.custom_calls(text).most_common()),
        "activation_copies": _activation_copies(text, batch),
    }


def _activation_copies(text: str, batch: int) -> int:
    entry = text[text.find("\nENTRY") :]
    lines = (line for line in entry.splitlines() if (m := _MAP.match(line)) and int(m[1]) == batch)
    sizes = (it.result for line in lines for it in hlo.instructions(line))
    return sum(sum(buffer.bytes for buffer in result) >= _SMALL for result in sizes)
