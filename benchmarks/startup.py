"""Seconds from the start of the process to the end of the first training step.

    resnet-jax bench startup [--n 5] [--recipe digits] [--out benchmarks/results/startup.jsonl]

Cold (an empty compilation cache) and warm (the same command again) alternate, each in a process of
its own with nothing but the recipe's defaults; the clock is the parent's, stopped when the child
says that its first step is done. Prints one JSON object: device, versions, n, median and spread of
both, and the median of the pairs' ratios.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "resnet-jax")


def first_step(recipe: str, cache: Path) -> float:
    """Seconds until a fresh run has done its first step."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "train", "train", recipe, "--workdir", f"{workdir}/run"]
        command += ["--duration", "1st"]
        command += ["--compilation_cache", str(cache)]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        since = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith("first step"):
                    seconds = time.perf_counter() - since
                    break
            else:
                raise SystemExit(f"{' '.join(command)} did no step")
            child.stdout.read()
    return seconds


def describe(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=5, help="pairs of a cold and a warm start")
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--out", type=Path, help="append the result to this file")
    args = parser.parse_args()
    cold, warm = [], []
    for _ in range(args.n):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(first_step(args.recipe, Path(cache)))
            warm.append(first_step(args.recipe, Path(cache)))
    result = {
        "benchmark": "startup",
        "recipe": args.recipe,
        "device": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "n": args.n,
        "cold_seconds": describe(cold),
        "warm_seconds": describe(warm),
        "warm_over_cold": describe([w / c for w, c in zip(warm, cold, strict=True)]),
    }
    line = json.dumps(result)
    print(line)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
