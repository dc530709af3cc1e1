"""Seconds from the start of the process to the end of the first training step.

    resnet-jax bench startup [--n 5] [--recipe digits] [--out benchmarks/results/startup.jsonl]

Cold (an empty compilation cache) and warm (the same command again) alternate, each in a process of
its own with nothing but the recipe's defaults; the clock is the parent's, stopped when the child
says that its first step is done. Prints one JSON object: machine, versions, commit, median and
spread of both, and of the pairs' ratios.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import at_least_one, command, emit, environment, spread


def first_step(recipe: str, cache: Path) -> float:
    """Seconds until a fresh run has done its first step."""
    with tempfile.TemporaryDirectory() as workdir:
        words = [sys.executable, "-m", "train", "train", recipe, "--workdir", f"{workdir}/run"]
        words += ["--duration", "1st", "--compilation_cache", str(cache)]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        since = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith("first step"):
                    seconds = time.perf_counter() - since
                    break
            else:
                raise SystemExit(f"{recipe}: did no step")
            child.stdout.read()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--n", type=at_least_one, default=5, help="pairs of a cold and a warm start"
    )
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--out", type=Path, help="append the result to this file")
    args = parser.parse_args()
    machine = {**environment(), "command": command("startup", sys.argv[1:])}
    cold, warm = [], []
    for _ in range(args.n):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(first_step(args.recipe, Path(cache)))
            warm.append(first_step(args.recipe, Path(cache)))
    row = {
        **machine,
        "benchmark": "startup",
        "recipe": args.recipe,
        "cold_seconds": spread(cold),
        "warm_seconds": spread(warm),
        "warm_over_cold": spread([w / c for w, c in zip(warm, cold, strict=True)]),
    }
    emit(row, args.out)


if __name__ == "__main__":
    main()
