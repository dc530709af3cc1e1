"""Seconds from the start of the process to the end of the first training step.

    resnet-jax bench startup [--n 5] [--recipe digits] [--out benchmarks/results/startup.jsonl]

Cold starts (an empty compilation cache) and warm starts (the same command again) alternate, each in
a separate process with the recipe's defaults. The parent measures the time until the child reports
its first step. Prints one JSON object: machine, versions, commit, median and range of both, and of
the ratios within pairs.
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
    """Seconds from the start of a new run to the end of its first step."""
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
                raise SystemExit(f"{recipe}: the run ended before its first step")
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
