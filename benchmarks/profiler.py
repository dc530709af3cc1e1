"""Profile of a step on the device: its kernels by time.

usage: resnet-jax bench profile [NAME[,BATCH[,PIXELS]]] [--steps 5] [--trace DIR]

Runs a few steps under JAX's profiler and reads its file. `share` is the fraction of the device's
busy time. On a GPU or TPU, the wall time of a step minus `busy_ms` is idle time. On a CPU, kernels
of several threads overlap, and the sum of their times is more than the wall time.
"""

import re
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.record import Row, command, emit, environment
from benchmarks.systems.registry import JaxStepper, check_systems, warm_up
from benchmarks.workloads import describe, read_case
from train.cli.arguments import parse
from train.config import ConfigError, RunConfig, RunError


@dataclass(frozen=True)
class ProfileArgs:
    """Options of `bench profile`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    system: str = "ours"
    """Ours, or a peer in JAX."""
    steps: int = 5
    """Profiled steps."""
    top: int = 10
    """Kernels in the table."""
    trace: Path | None = None
    """Keep the trace in this folder (for xprof, or Perfetto)."""
    out: Path | None = None
    """Append the result to this file, as one line of JSON."""

    def __post_init__(self) -> None:
        check_systems([self.system])
        if self.system.startswith("torch"):
            raise ConfigError(f"system {self.system!r}: must be a system in JAX")
        for name in ("steps", "top"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")


def main(args: Sequence[str]) -> None:
    """Profiles, and prints a line of JSON for each case."""
    cut = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    for name in args[:cut] or ("resnet50,16",):
        start = ProfileArgs(read_case(name))
        given = parse("bench profile", __doc__ or "", ProfileArgs, start, args[cut:])
        emit({**measure(given), "command": command("profile", args)}, given.out)


def measure(args: ProfileArgs) -> Row:
    """Profiles one case.

    Raises:
      RunError: the profiler recorded no kernel.
    """
    import jax

    before = environment()
    stepper = JaxStepper(args.system, args.config)
    warm_up(stepper, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        where = args.trace or Path(folder)
        with jax.profiler.trace(str(where)):
            since = time.perf_counter()
            stepper.advance(args.steps)
            wall = time.perf_counter() - since
        files = sorted(where.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        if not files:
            raise RunError(f"the profiler wrote nothing to {where}")
        found = kernels(files[-1])
    if not found:
        raise RunError("the profiler recorded no kernel")
    return {
        "benchmark": "profile",
        "system": args.system,
        **describe(args.config),
        "device": stepper.end()["device"],
        **before,
        "steps": args.steps,
        "step_ms": round(1e3 * wall / args.steps, 3),
        **table(found, args.steps, args.top),
    }


def kernels(path: Path) -> list[tuple[str, float]]:
    """(name, seconds) of all kernels on the devices of a trace."""
    from jax.profiler import ProfileData

    with warnings.catch_warnings():
        # JAX's types give one on Python 3.12; as an error it would end the process
        warnings.simplefilter("ignore", DeprecationWarning)
        planes = list(ProfileData.from_file(str(path)).planes)
        devices = [plane for plane in planes if re.match(r"/device:(GPU|TPU):\d+", plane.name)]
        hosts = [plane for plane in planes if plane.name == "/host:CPU"]
        return [
            (event.name, event.duration_ns / 1e9)
            for plane in devices or hosts
            for line in plane.lines
            if _holds_kernels(plane.name, line.name)
            for event in line.events
            if devices or any(name == "hlo_op" for name, _ in event.stats)
        ]


def _holds_kernels(plane: str, line: str) -> bool:
    """Whether a line of a device's trace has kernels, not steps or modules."""
    if "TPU" in plane:
        return line == "XLA Ops"
    return line.startswith("Stream") or "GPU" not in plane


def table(found: Sequence[tuple[str, float]], steps: int, top: int) -> Row:
    """The kernels with the most time, individually and by kind, in milliseconds per step."""
    seconds: defaultdict[str, float] = defaultdict(float)
    kinds: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    of_kind: Counter[str] = Counter()
    for name, each in found:
        kind = re.sub(r"(?:[._]\d+)+$", "", name)
        seconds[name] += each
        kinds[kind] += each
        counts[name] += 1
        of_kind[kind] += 1
    total = sum(seconds.values())

    def listed(times: dict[str, float], counts: Counter[str]) -> list[dict[str, Any]]:
        order = sorted(times, key=lambda name: -times[name])[:top]
        return [
            {
                "name": name[:120],
                "ms": round(1e3 * times[name] / steps, 4),
                "share": round(times[name] / total, 4),
                "count": round(counts[name] / steps, 2),
            }
            for name in order
        ]

    return {
        "busy_ms": round(1e3 * total / steps, 3),
        "kernels": len(found) / steps,
        "top": listed(seconds, counts),
        "top_kinds": listed(kinds, of_kind),
    }
