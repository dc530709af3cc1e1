"""A fault campaign: a training that is killed, damaged and starved of disk space many times.

    python -m benchmarks.faults [--kills 60] [--damages 10] [--disks 3] [--outside 3] [--seed 0]
        [--out benchmarks/results/faults.jsonl]

Child processes train a tiny network on the digits from the command line. The first run is
undisturbed and keeps every checkpoint: the reference. The other runs meet these faults:

- SIGKILL at random moments, some during an evaluation or the writing of a checkpoint;
- between some restarts, a random file of the newest checkpoint is truncated, deleted, or has a bit
  flipped (`kills.py`);
- a small file system that becomes full (needs root; `full_disk.py`);
- faults from outside (`outside.py`): directories with unusual names, a second process in the same
  directory, output that nobody reads, closed terminals, signals to all processes, changed files.

After every fault, each checkpoint must be bit-identical to the reference's of the same step, and
the newest undamaged one may not be older than before. Every restart must resume at the newest
undamaged checkpoint and name the damaged ones. Every run that ends must have the reference's state
and metrics. Prints a table and one JSON line. Exits with 1 if a check failed.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.faults import outside
from benchmarks.faults.campaign import Campaign
from benchmarks.faults.child_run import STEPS, default_signals
from benchmarks.faults.full_disk import full_disks
from benchmarks.faults.kills import kills
from train.run.provenance import versions

OUTSIDE_STEPS = 200
"""Steps of the runs that meet faults from outside.

About thirty runs train from start to end, and some start worker processes for each evaluation.
"""


def from_outside(campaign: Campaign, count: int) -> None:
    """Each fault of `benchmarks.faults.outside`; `count` times where moments are random."""
    campaign.attempt(outside.paths)
    campaign.attempt(outside.second_process, count)
    campaign.attempt(outside.lost_output)
    campaign.attempt(outside.lost_terminals, count)
    campaign.attempt(outside.hangups, count, "--data.workers", "2")
    campaign.attempt(outside.changed_files)


def table(campaign: Campaign) -> str:
    """The counts of a campaign, in Markdown."""
    counts = {
        **{f"SIGKILL in: {where}": n for where, n in sorted(campaign.killed.items())},
        **{f"newest checkpoint: {what}": n for what, n in campaign.damaged.items()},
        **campaign.done,
        "wrong": len(campaign.wrong),
    }
    return "\n".join(f"| {what} | {n:,} |" for what, n in counts.items())


def result(campaign: Campaign, seed: int, seconds: float) -> dict[str, Any]:
    """The row of the campaign in the file of results."""
    return {
        "benchmark": "faults",
        "device": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "versions": versions(),
        "seed": seed,
        "steps": {"kills, damages, disks": STEPS, "outside": OUTSIDE_STEPS},
        "seconds": round(seconds),
        "kills": campaign.killed.total(),
        "killed in": dict(campaign.killed),
        "newest checkpoint": dict(campaign.damaged),
        **campaign.done,
        "wrong": campaign.wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--damages", type=int, default=10, help="fewer than kills")
    parser.add_argument("--disks", type=int, default=3, help="times that the disk is full")
    parser.add_argument("--outside", type=int, default=3, help="of each fault from outside")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="append the result to this file")
    args = parser.parse_args()
    default_signals()
    since = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), random.Random(args.seed))
        campaign.attempt(kills, args.kills, args.damages)
        if args.disks:
            campaign.attempt(full_disks, args.disks)
        if args.outside:
            (Path(folder) / "outside").mkdir()
            short = Campaign(Path(folder) / "outside", campaign.rng, OUTSIDE_STEPS)
            from_outside(short, args.outside)
            campaign.done.update(short.done)
            campaign.wrong.extend(short.wrong)
    row = result(campaign, args.seed, time.perf_counter() - since)
    print(table(campaign))
    print(json.dumps(row))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return int(bool(campaign.wrong))


if __name__ == "__main__":
    sys.exit(main())
