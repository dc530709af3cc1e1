"""The largest batch whose training step fits into memory, by compiling and by running.

usage: resnet-jax bench memory [NAME[,BATCH[,PIXELS]] ...] [--topology h200 | --limit GIB]

The compiler reports the memory of each step (arguments, temporaries, results, code). It is compared
with the memory of a chip that may be unavailable (`--topology`), with `--limit`, or with the memory
of this machine's GPU or TPU, or of the machine. On a GPU or TPU of this machine, the result is also
tested with real steps; memory of libraries may make it smaller.
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
    """A chip, which may be unavailable: h200, v5e:1x1 ...; None: this machine."""
    limit: float | None = None
    """Memory limit of a step in GiB; None: the memory of the chip or machine."""
    granule: int = 8
    """The batch size is a multiple of this."""
    out: Path | None = None
    """Append the results to this file, one line of JSON per case."""

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
    """Searches for one case.

    Raises:
      ConfigError: no such topology, or not even the smallest batch fits.
    """
    if args.topology:
        topology = parse_topology(args.topology)
        check_compiler(topology.chip)
        prepare_environment()
    else:
        # This process only compiles; it must not reserve the memory of processes that run steps
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
    """Memory of a device of this machine in bytes; for a CPU, of the machine."""
    stats = device.memory_stats()
    if stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _peak(config: RunConfig, batch: int, where: Any, platform: str, limit: int) -> float:
    """Memory per chip of a step with this batch, in bytes; inf: more than the compiler allows."""
    from train.distributed.mesh import make_mesh
    from train.plan.compile import compile_step
    from train.run.parts import Run

    config = replace(config, batch_size=batch)
    run = Run(config, mesh=make_mesh(where, fsdp=config.mesh.fsdp), splits=facts(config))
    found, program = compile_step(run, platform, limit)
    return found["memory"]["peak"] if program else found["memory"]["peak"] or math.inf


def largest_fitting(peak: Callable[[int], float], limit: float, *, granule: int, start: int) -> int:
    """The largest multiple of `granule` whose peak is within the limit; 0: there is none.

    Peaks grow nearly linearly with the batch. Each guess is where the line through the two nearest
    known batches reaches the limit; if that does not converge, the middle of the bracket.

    >>> largest_fitting(lambda batch: 100 + 10 * batch, 1000, granule=8, start=8)
    88
    """
    known: dict[int, float] = {}

    def fits(batch: int) -> bool:
        known.setdefault(batch, peak(batch) if batch not in known else 0.0)
        return known[batch] <= limit

    good, bad = 0, 0  # the bracket, in images; bad 0: unknown
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
    """The next batch to try: inside the bracket, or a larger one if all batches fit so far."""
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
    # A guess at the edge of a wide bracket may be the first of many: halve the bracket instead
    edge = inside in (good + granule, bad - granule) and bad - good > 4 * granule
    middle = (good + bad) // 2 // granule * granule
    return middle if edge and len(known) > 6 else inside


def largest_running(config: RunConfig, largest: int, granule: int) -> int:
    """The largest batch, at most `largest`, with which three steps run; each in a process."""
    batch = largest
    while batch > 0:
        system = System("ours", replace(config, batch_size=batch), warm_seconds=0.0)
        ran = not system.absent
        system.close()
        if ran:
            return batch
        batch = min(int(batch * 0.95), batch - 1) // granule * granule
    return 0
