"""Whole training steps, side by side with other systems: images/s, and the ratio with its spread.

    python -m benchmarks.step [--case resnet18,32,64 ...] [--peers ours,linen,haiku,torch]
        [--rounds 7] [--steps 3] [--precision fp32] [--out benchmarks/results/step.jsonl]

A case is NAME,BATCH,SIZE. Each system runs in a process of its own, compiled and warm before
anything is measured; then they take turns (A B C A B C ...), `--steps` steps a turn, while the
others wait without running. Every step is waited for. One JSON line a case: device, versions,
flags, n, images/s (median, min, max over turns) and ours / peer (median, min, max over rounds).
Systems that are not installed are left out, and named.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "dm-haiku", "torch", "torchvision", "resnet-jax")
CASES = ("resnet50,16,224", "resnet18,32,64", "resnet20_cifar,128,32")
FLAGS = ("XLA_FLAGS", "GLIBC_TUNABLES", "OMP_NUM_THREADS")


def work(peer: str, case: str, precision: str) -> None:
    """A system's process: builds, warms up, then does as many steps as each line of stdin says."""
    from benchmarks.peers import PEERS

    name, batch, size = case.split(",")
    classes = 10 if name.endswith("cifar") else 1000
    since = time.perf_counter()
    run = PEERS[peer](name, int(batch), int(size), classes, precision)
    run()
    first = time.perf_counter() - since
    for _ in range(2):
        run()
    print(json.dumps({"first_step": first}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            since = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - since)
        print(json.dumps(seconds), flush=True)


class System:
    """The parent's end of a system's process."""

    def __init__(self, peer: str, case: str, precision: str):
        command = [sys.executable, "-m", "benchmarks.step", "--worker", peer]
        command += ["--case", case, "--precision", precision]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        return None

    def steps(self, count: int) -> list[float]:
        """Seconds of each of `count` steps."""
        assert self.process.stdin is not None
        print(count, file=self.process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def spread(values: list[float]) -> dict[str, float]:
    """Median, min and max, to three digits."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def measure(case: str, peers: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """One case; every system in turn."""
    batch = int(case.split(",")[1])
    systems = {peer: System(peer, case, args.precision) for peer in peers}
    absent = [peer for peer, system in systems.items() if system.ready is None]
    for peer in absent:
        systems.pop(peer).close()
    rates: dict[str, list[float]] = {peer: [] for peer in systems}
    for _ in range(args.rounds):
        for peer, system in systems.items():
            rates[peer].append(batch / statistics.median(system.steps(args.steps)))
    for system in systems.values():
        system.close()
    ours = rates["ours"]
    return {
        "benchmark": "step",
        "case": case,
        "precision": args.precision,
        "rounds": args.rounds,
        "steps_a_round": args.steps,
        "images_per_second": {peer: spread(values) for peer, values in rates.items()},
        "ours_over": {
            peer: spread([a / b for a, b in zip(ours, values, strict=True)])
            for peer, values in rates.items()
            if peer != "ours"
        },
        "first_step_seconds": {
            peer: round(system.ready["first_step"], 1) for peer, system in systems.items()
        },
        "not_here": absent,
    }


def environment() -> dict[str, Any]:
    """Device, versions and flags that a figure depends on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": f"{os.cpu_count()} cores, {_processor()}",
        "python": platform.python_version(),
        "versions": versions,
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", default=list(CASES))
    parser.add_argument("--peers", default="ours,linen,haiku,torch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="of each system in a round")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--out", type=Path, help="append the results to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, args.case[0], args.precision)
    for case in args.case:
        found = {**environment(), **measure(case, args.peers.split(","), args)}
        line = json.dumps(found)
        print(line, flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
