"""The largest batch whose training step fits, found by compiling, and by running where it can.

usage: resnet-jax bench memory [NAME[,BATCH[,PIXELS]] ...] [--topology h200 | --limit GIB]

The compiler's own account of each step (arguments, temporaries, results, code) is held against
what a program may take: of a chip that is not here (`--topology`), of `--limit`, of this GPU or
TPU, or of this machine's memory. On a GPU or TPU that is here the answer is tried too, with real
steps; what a library takes besides may make it smaller.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.interleaved import System
from benchmarks.record import Row, command, emit, environment
from benchmarks.workloads import describe, facts, read_case
from train.cli.arguments import parse
from train.config import ConfigError, RunConfig
from train.plan.topology import check_compiler, devices, parse_topology, prepare_environment

GIB = 2**30


@dataclass(frozen=True)
class MemoryArgs:
    """Options of `bench memory`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    topology: str | None = None
    """A chip that need not be here: h200, v5e:1x1 ...; None: this machine."""
    limit: float | None = None
    """GiB that a step may take; None: as many as the chip, or this machine, has."""
    granule: int = 8
    """The batch is a multiple of it."""
    out: Path | None = None
    """Append the results to this file, a line of JSON for each case."""

    def __post_init__(self) -> None:
        if self.granule < 1:
            raise ConfigError(f"granule {self.granule}: must be at least 1")
        if self.limit is not None and self.limit <= 0:
            raise ConfigError(f"limit {self.limit}: must be positive")


def main(args: Sequence[str]) -> None:
    """Searches for every case, and prints a line of JSON for each."""
    cut = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    for name in args[:cut] or ("resnet50",):
        given = parse(
            "bench memory", __doc__ or "", MemoryArgs, MemoryArgs(read_case(name)), args[cut:]
        )
        emit({**measure(given), "command": command("memory", args)}, given.out)


def measure(args: MemoryArgs) -> Row:
    """One case.

    Raises:
      ConfigError: no such topology, or not even the smallest batch fits.
    """
    if args.topology:
        topology = parse_topology(args.topology)
        check_compiler(topology.chip)
        prepare_environment()
    else:
        # What this process only compiles must not keep memory from those that run
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    where = devices(topology) if args.topology else jax.devices()[:1]
    name = topology.name if args.topology else where[0].device_kind
    platform = topology.chip.platform if args.topology else _platform(where[0])
    limit = int(args.limit * GIB) if args.limit else None
    if limit is None:
        limit = topology.chip.hbm_usable if args.topology else _memory_of(where[0])
    tried: dict[int, float] = {}

    def peak(batch: int) -> float:
        tried[batch] = _peak(args.config, batch, where, platform, limit)
        return tried[batch]

    granule = math.lcm(args.granule, len(where))
    start = max(args.config.batch_size // granule, 1) * granule
    largest = largest_fitting(peak, limit, granule=granule, start=start)
    if not largest:
        raise ConfigError(f"{args.config.model.name}: a batch of {granule} does not fit {name}")
    found: Row = {"largest_batch": largest, "peak_bytes": tried[largest], "limit_bytes": limit}
    if not args.topology and platform != "cpu":
        found.update(largest_run=largest_running(args.config, largest, granule))
    return {
        "benchmark": "memory",
        **describe(replace(args.config, batch_size=largest)),
        "device": name,
        **environment(),
        **found,
        "tried": {str(batch): _finite(value) for batch, value in sorted(tried.items())},
    }


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def _platform(device: Any) -> str:
    return "cuda" if device.platform == "gpu" else device.platform


def _memory_of(device: Any) -> int:
    """What a program may take of a device that is here; of a CPU, all of the machine's."""
    stats = device.memory_stats()
    if stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _peak(config: RunConfig, batch: int, where: Any, platform: str, limit: int) -> float:
    """Bytes of a chip that a step of so many images takes; inf: more than the compiler allows."""
    from train.distributed.mesh import make_mesh
    from train.plan.compile import compile_step
    from train.run.parts import Run

    config = replace(config, batch_size=batch)
    run = Run(config, mesh=make_mesh(where, fsdp=config.mesh.fsdp), splits=facts(config))
    found, program = compile_step(run, platform, limit)
    return found["memory"]["peak"] if program else found["memory"]["peak"] or math.inf


def largest_fitting(peak: Callable[[int], float], limit: float, *, granule: int, start: int) -> int:
    """The largest multiple of `granule` whose peak is within the limit; 0: there is none.

    Peaks grow with the batch, nearly linearly: each guess is where the line through the two nearest
    known batches meets the limit, and one between them where that does not get nearer.

    >>> largest_fitting(lambda batch: 100 + 10 * batch, 1000, granule=8, start=8)
    88
    """
    known: dict[int, float] = {}

    def fits(batch: int) -> bool:
        known.setdefault(batch, peak(batch) if batch not in known else 0.0)
        return known[batch] <= limit

    good, bad = 0, 0  # the bracket, in images; bad 0: not known yet
    guess = start
    while True:
        if fits(guess):
            good = max(good, guess)
        else:
            bad = min(bad or guess, guess)
        if bad and bad - good <= granule:
            return good
        guess = _next(known, limit, granule, good, bad)


def _next(known: dict[int, float], limit: float, granule: int, good: int, bad: int) -> int:
    """The batch to try: inside the bracket, or beyond what fits while nothing is too large."""
    finite = sorted(batch for batch, value in known.items() if math.isfinite(value))
    if len(finite) < 2 or finite[-1] == finite[0]:
        step = 2 * good if good else bad // 2
    else:
        below = max((b for b in finite if b <= good), default=finite[0])
        other = min((b for b in finite if b != below), key=lambda b: abs(b - below))
        slope = (known[other] - known[below]) / (other - below)
        step = int(below + (limit - known[below]) / slope) if slope > 0 else 2 * good
    step = step // granule * granule
    if not bad:
        return max(step, good + granule)
    inside = min(max(step, good + granule), bad - granule)
    # A guess at the edge of a wide bracket may be one of many: halve it
    edge = inside in (good + granule, bad - granule) and bad - good > 4 * granule
    middle = (good + bad) // 2 // granule * granule
    return middle if edge and len(known) > 6 else inside


def largest_running(config: RunConfig, largest: int, granule: int) -> int:
    """The largest batch of at most `largest` that three steps run with; each in its own process."""
    batch = largest
    while batch > 0:
        system = System("ours", replace(config, batch_size=batch), warm_seconds=0.0)
        ran = not system.absent
        system.close()
        if ran:
            return batch
        batch = min(int(batch * 0.95), batch - 1) // granule * granule
    return 0
