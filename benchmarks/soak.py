"""Resident memory, open files and threads of a long training, observed from outside.

    python -m benchmarks.soak [--steps 20000] [--out benchmarks/results/soak.jsonl]

A child process trains a tiny network on the digits with `fit`: reading threads, a log row every 100
steps, an evaluation and a checkpoint every 500. The parent follows metrics.jsonl and reads /proc at
each log row. Each figure is the median of the samples at the last 10 rows, because one sample may
include the copy of a checkpoint. Prints a table and one JSON line. Exits with 1 if resident memory
grows by more than 2 % between a tenth of the steps and the end.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.run.provenance import versions

LOG_EVERY = 100
NEAR = 10
"""Number of rows in a figure."""
ALLOWED = 0.02
"""Allowed growth of resident memory."""


def work(steps: int, workdir: Path) -> None:
    """The child process: trains, with the malloc settings of the command line."""
    from train.runtime import set_malloc

    set_malloc()
    from train.config import (
        AugmentConfig,
        DataConfig,
        EvalConfig,
        ModelConfig,
        OptimConfig,
        RunConfig,
    )
    from train.run.fit import fit

    config = RunConfig(
        recipe="digits",
        duration=f"{steps}st",
        batch_size=32,
        precision="fp32",
        ema_decay=0.99,
        log_every=f"{LOG_EVERY}st",
        model=ModelConfig(name="resnet8_cifar", depths=(1, 1), width=8),
        data=DataConfig(name="digits", image_size=8, mean=(0.305,), std=(0.376,), threads=2),
        augment=AugmentConfig(crop="pad", pad=1, flip=False),
        optim=OptimConfig(lr=0.05, lr_batch=32),
        eval=EvalConfig(every="500st", batch_size=128, crop_fraction=1.0),
    )
    fit(config, workdir, quiet=True)


@dataclass(frozen=True)
class Sample:
    """Resources of a process."""

    step: int
    resident: int
    """Resident memory in bytes."""
    files: int
    threads: int


def sample(process: int, step: int) -> Sample:
    """Reads /proc; raises `OSError` if the process has ended."""
    folder = Path(f"/proc/{process}")
    status = dict(
        line.split(":\t", 1)
        for line in (folder / "status").read_text().splitlines()
        if ":\t" in line
    )
    if "VmRSS" not in status:
        raise ProcessLookupError(process)
    resident = int(status["VmRSS"].removesuffix("kB")) * 1024
    return Sample(step, resident, len(os.listdir(folder / "fd")), int(status["Threads"]))


def watch(steps: int, workdir: Path) -> tuple[list[Sample], float]:
    """Samples at each row that the child logs, and the total seconds."""
    command = [sys.executable, "-m", "benchmarks.soak", "--worker", str(workdir)]
    samples: list[Sample] = []
    since = time.perf_counter()
    with subprocess.Popen([*command, "--steps", str(steps)]) as child:
        while child.poll() is None:
            time.sleep(0.05)
            step = last_step(workdir / "metrics.jsonl")
            if step > (samples[-1].step if samples else 0):
                try:
                    samples.append(sample(child.pid, step))
                except OSError:
                    break
    if child.returncode:
        raise SystemExit(f"the training ended with {child.returncode} after {samples[-1:]}")
    return samples, time.perf_counter() - since


def last_step(metrics: Path) -> int:
    """The step of the last complete training row."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
            lines = file.read().split(b"\n")[1:-1]
    except OSError:
        return 0
    rows = (json.loads(line) for line in reversed(lines))
    return next((int(row["step"]) for row in rows if row["split"] == "train"), 0)


def figures(samples: list[Sample], step: int) -> dict[str, Any]:
    """The figures at a step: medians over the last rows."""
    near = [s for s in samples if step - NEAR * LOG_EVERY < s.step <= step]
    if not near:
        raise SystemExit(f"no sample near step {step}: the steps are too fast to follow")
    return {
        "step": step,
        "resident_mib": round(statistics.median(s.resident for s in near) / 2**20, 1),
        "files": int(statistics.median(s.files for s in near)),
        "threads": int(statistics.median(s.threads for s in near)),
        "samples": len(near),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000, help="10,000 or more")
    parser.add_argument("--out", type=Path, help="append the result to this file")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.steps, args.worker)
        return 0
    with tempfile.TemporaryDirectory() as workdir:
        samples, seconds = watch(args.steps, Path(workdir) / "run")
    rows = [figures(samples, args.steps * tenth // 10) for tenth in range(1, 11)]
    print("   step  resident MiB  open files  threads")
    for row in rows:
        print("{step:7d}  {resident_mib:12.1f}  {files:10d}  {threads:7d}".format(**row))
    growth = rows[-1]["resident_mib"] / rows[0]["resident_mib"] - 1
    print(f"resident memory grew by {growth:.2%} from step {rows[0]['step']} to {args.steps}")
    result = {
        "benchmark": "soak",
        "device": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "versions": versions(),
        "steps": args.steps,
        "seconds": round(seconds),
        "growth": round(growth, 4),
        "at": rows,
    }
    print(json.dumps(result))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
    return int(growth > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
