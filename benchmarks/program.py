"""The training step compiled for a chip that need not be here: kernels, library calls, memory.

usage: resnet-jax bench program [NAME[,BATCH[,PIXELS]] ...] --topology h200 [--systems ours flax]

No step is run. What is counted is the program's own computation: `kernels` is all that it starts,
`fusions` and `custom_calls` (a library's convolutions) among them; `small` are those that touch
less than a megabyte, which cost their start and little else; `activation_copies` are copies and
transposes of whole maps. `modelled_ms` is HBM traffic over the chip's bandwidth, and no
measurement: a kernel chosen without the device may be a poor one.
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
    """Ours and JAX's peers."""
    hlo: Path | None = None
    """Write the programs' texts to this folder."""
    out: Path | None = None
    """Append the results to this file, a line of JSON for each case."""

    def __post_init__(self) -> None:
        check_systems(self.systems)
        if torch := [name for name in self.systems if name.startswith("torch")]:
            raise ConfigError(f"systems {torch[0]!r}: is no XLA program")


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
      ConfigError: no such topology, or nothing here compiles for it.
    """
    topology = parse_topology(args.topology)
    if topology.chips > 1 and args.systems != ("ours",):
        raise ConfigError(f"topology {args.topology!r}: others than ours have one chip")
    compiler = check_compiler(topology.chip)
    prepare_environment()
    from benchmarks.systems.jax_systems import BUILDERS

    chips = devices(topology)
    found: dict[str, Row] = {}
    absent: dict[str, str] = {}
    for name in args.systems:
        try:
            if lack := missing(name):
                raise Unsupported(lack)
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
        said = {**compiler_stats(compiled), **count(text, args.config.batch_size // topology.chips)}
        said["modelled_ms"] = round(1e3 * said["hbm_bytes"] / topology.chip.hbm_bandwidth, 2)
        found[name] = said
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
    """What an optimised program starts, by kind; `batch` tells a map from other arrays."""
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
