"""A fault campaign: one training, killed, damaged and starved of disk again and again.

    python -m benchmarks.faults [--kills 60] [--damages 10] [--disks 3] [--outside 3] [--seed 0]
        [--out benchmarks/results/faults.jsonl]

A tiny network is trained on the digits by the command line in child processes. The first one is
left alone and keeps every checkpoint: the reference. The others get SIGKILL at random moments, some
of them inside an evaluation or the writing of a checkpoint; between some restarts a random file
of the newest checkpoint is cut off, deleted, or has a bit flipped; and a run on a small file system
(needs root) finds it full. Then come faults from outside (benchmarks/faults/outside.py):
directories with odd names, a second process in the same one, output that nobody reads, closed
terminals, signals to all processes, files of the data that changed.

After every fault each checkpoint that is there must be the reference's of that step, to the bit,
and the newest no older than before; every restart must resume at the newest whole one and name
those that are not; every run that comes to its end must have the reference's state and metrics.
Prints a table and one JSON line; exits with 1 if anything was wrong.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults import outside
from benchmarks.faults.child_run import SAVE, STEPS, Workdir, environment, same, small_disk
from train.run.provenance import versions

OUTSIDE_STEPS = 200
"""Steps of the runs that meet faults from outside.

About thirty runs train from start to end, and some start worker processes for each evaluation.
"""
AIMS = {"start": 15, "anywhere": 25, "checkpoint": 30, "evaluation": 30}
"""Where kills are aimed at, and how often, in %."""
AIMED = 20
"""Kills inside a checkpoint's writing, and inside an evaluation, that a hundred must have."""


@dataclass
class Campaign:
    """The faults of a campaign: what was done, and what came of it."""

    folder: Path
    rng: random.Random
    steps: int = STEPS
    cache: Path | None = None
    """Of compiled programs; None: one in `folder`."""
    killed: Counter[str] = field(default_factory=Counter)
    damaged: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Every promise that was not kept."""

    def __post_init__(self) -> None:
        self.env = environment(self.cache or self.folder / "cache")
        self.reference = self.workdir("reference", "--checkpoint.keep", "1000000")
        if code := self.reference.to_the_end():
            raise SystemExit(f"the undisturbed run ended with {code}: {self.reference.err}")
        self._torn = self.workdir("torn0")
        self._expected, self._harmed = 0, set[int]()

    def workdir(self, name: str, *options: str) -> Workdir:
        return Workdir(self.folder / name, self.folder, self.env, self.steps, *options)

    def check(self, good: bool, what: str) -> None:
        if not good:
            self.wrong.append(what)
            print(f"WRONG: {what}", flush=True)

    def count(self, what: str) -> None:
        """One more fault that was tried."""
        self.done[what] += 1

    def attempt(self, part: Callable[..., None], *args: Any) -> None:
        """Calls a part of the campaign; a run that hangs in it is counted as wrong."""
        since = time.perf_counter()
        try:
            part(self, *args)
        except subprocess.SubprocessError as error:
            self.check(False, f"{part.__name__}: {error}")
        print(f"{part.__name__}: {time.perf_counter() - since:.0f} s", flush=True)

    def kills(self, count: int, damages: int) -> None:
        """So many kills, with so many damaged checkpoints between them, and on to the end."""
        enough = count * AIMED // 100
        left = damages
        while True:
            kills = self.killed.total()
            aimed = min(self.killed[where] for where in ("checkpoint", "evaluation"))
            if (kills >= count and aimed >= enough and not left) or kills >= 3 * count:
                break
            due = self.rng.random() * max(count - kills, 1) < left
            if due and len(self._torn.steps()) > 1 and not self._harmed:
                self._damage()
                left -= 1
            self._live(self.rng.choices(list(AIMS), list(AIMS.values()))[0])
        self.check(aimed >= enough and not left, f"after {kills} kills too few were as aimed")
        self.check(self._torn.to_the_end() == 0, "the last restart failed")
        self.check_restart(self._torn, self._expected)
        self.check_end(self._torn)

    def _live(self, aim: str) -> None:
        """One process, from its start to its kill, or to the end of the run."""
        torn, seen = self._torn, self._expected
        with torn.training() as child:
            if self._wait(child, aim):
                seen = max([seen, *(s for s in torn.steps() if s not in self._harmed)])
                if child.poll() is None:
                    child.kill()
            ended = torn.ended(child) >= 0
        self.check_restart(torn, self._expected)
        if ended:
            self.check(child.returncode == 0, f"exit code {child.returncode}: {torn.err}")
            self.check_end(torn)
            self._torn = self.workdir(f"torn{self.done['runs to the end']}")
            self._expected = 0
            return
        where = self._where(torn)
        self.killed[where] += 1
        self._expected = self.check_checkpoints(torn, seen, f"kill ({where})")
        print(f"{self.killed.total():4d}  {where}, newest whole step {self._expected}", flush=True)

    def _wait(self, child: subprocess.Popen[bytes], aim: str) -> bool:
        """Returns when it is time to kill; False if the child ended before."""
        torn, uniform = self._torn, self.rng.uniform
        if aim == "start":
            time.sleep(uniform(0, 4))
            return child.poll() is None
        if not torn.until(lambda: torn.started, child, "first step"):
            return False
        # Further by checkpoints, not by seconds: a busy machine would stay where it began
        goal = self._newest(torn) + SAVE * self.rng.randrange(5)
        if not torn.until(lambda: self._newest(torn) >= goal, child, f"checkpoint {goal}"):
            return False
        time.sleep(uniform(0, 0.5))
        if aim == "checkpoint":
            there = torn.until(lambda: torn.writing, child, "checkpoint")
            time.sleep(uniform(0, 0.15))
            return there
        if aim == "evaluation":
            there = torn.until(lambda: torn.evaluating, child, "evaluation")
            time.sleep(uniform(0, 0.02))
            return there
        return child.poll() is None

    def _newest(self, torn: Workdir) -> int:
        return max(torn.steps(), default=0)

    def _where(self, torn: Workdir) -> str:
        """What a process was doing when it was killed; an evaluation comes first."""
        if not torn.started:
            return "start"
        if torn.evaluating:
            return "evaluation"
        if torn.writing:
            return "checkpoint"
        return "end" if self.steps in torn.steps() else "training"

    def check_checkpoints(self, torn: Workdir, seen: int, what: str) -> int:
        """After a fault: all that is there is right, nothing went. The newest that is whole."""
        whole = []
        for step in torn.steps():
            if same(torn.content(step), self.reference.content(step)):
                whole.append(step)
            else:
                self.check(step in self._harmed, f"{what}: checkpoint {step} is not right")
            self.done["checkpoints held against the reference"] += 1
        newest = max(whole, default=0)
        self.check(newest >= seen, f"{what}: step {newest} is left, {seen} was whole before")
        return newest

    def check_restart(self, torn: Workdir, expected: int) -> None:
        """It has to say where it resumes, and which checkpoints it had to leave aside."""
        said = re.search(
            r"resumes after step ([\d,]+)|all ([\d,]+) steps are done", torn.out.read_text()
        )
        if not said:
            self.check(not (expected and torn.started), f"resumed nowhere, not at {expected}")
            return
        at = int((said[1] or said[2]).replace(",", ""))
        self.check(at == expected, f"resumed at {at}, not at {expected}")
        self.done["resumes at the newest whole checkpoint"] += at == expected
        for step in self._harmed:
            named = f"warning: checkpoint {step} is damaged" in torn.err.read_text()
            self.check(named, f"did not say that checkpoint {step} is damaged")
            aside = torn.checkpoints / f"{step}.corrupt"
            self.check(aside.is_dir(), f"did not set checkpoint {step} aside")
            self.damaged["fell back to the one before, and said so"] += named
        self._harmed.clear()

    def _damage(self) -> None:
        """Random files of the newest checkpoint, until it is no longer what was saved."""
        newest = self._torn.steps()[-1]
        folder = self._torn.checkpoints / str(newest)
        while True:
            files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
            path, way = self.rng.choice(files), self.rng.choice(list(WAYS))
            WAYS[way](path, self.rng)
            self.damaged[f"a file {way}"] += 1
            if not same(self._torn.content(newest), self.reference.content(newest)):
                break
        self.damaged["damaged so that it matters"] += 1
        self._harmed.add(newest)
        self._expected = self.check_checkpoints(self._torn, 0, f"{path.name} {way}")
        print(f"      {path.relative_to(folder)} of checkpoint {newest} {way}", flush=True)

    def check_end(self, torn: Workdir) -> None:
        """State, metrics and what is kept: as if nothing had happened."""
        last, rows = self.steps, torn.rows()
        good = same(torn.content(last), self.reference.content(last))
        self.check(good, f"{torn.path.name}: the final state is not the reference's")
        self.check(rows == self.reference.rows(), f"{torn.path.name}: metrics.jsonl differs")
        evals = [row for row in rows if row["split"] == "eval"]
        best = max(evals, key=lambda row: (row["ema_top1"], row["step"]))["step"]
        kept = sorted({last - SAVE, last, best})
        self.check(torn.steps() == kept, f"{torn.path.name}: keeps {torn.steps()}, not {kept}")
        report = torn.path / "report" / "index.html"
        self.check(report.is_file(), f"{torn.path.name}: no report")
        self.done["runs to the end"] += 1
        self._harmed.clear()

    def full_disks(self, count: int) -> None:
        """A run whose file system becomes full, so many times; room is made after each."""
        with small_disk(self.folder / "disk") as disk:
            if disk is None:
                print("no small disk can be mounted: left out", flush=True)
                return
            starved, expected = self.workdir("disk/run"), 0
            for number in range(1, count + 1):
                code = self._starve(starved, disk)
                said = starved.err.read_text()
                self.check_restart(starved, expected)
                good = code == 1 and said.startswith("error: ") and "No space left" in said
                self.check(good, f"full disk: exit code {code}, {said!r}")
                self.check("Traceback" not in said, "full disk: a traceback")
                (disk / "filler").unlink()
                expected = self.check_checkpoints(starved, expected, "full disk")
                self.done["full disks"] += 1
                print(f"full disk {number}: {said.strip()}", flush=True)
            self.check(starved.to_the_end() == 0, "with room again: failed")
            self.check_restart(starved, expected)
            self.check_end(starved)

    def from_outside(self, count: int) -> None:
        """Each fault of `benchmarks.faults.outside`; `count` times where moments are random."""
        self.attempt(outside.paths)
        self.attempt(outside.second_process, count)
        self.attempt(outside.lost_output)
        self.attempt(outside.lost_terminals, count)
        self.attempt(outside.hangups, count, "--data.workers", "2")
        self.attempt(outside.changed_files)

    def _starve(self, starved: Workdir, disk: Path) -> int:
        """Fills the disk at a random moment of the training; the exit code."""
        with starved.training() as child:
            starved.until(lambda: starved.started, child, "first step")
            time.sleep(self.rng.uniform(0, 2))
            room = os.statvfs(disk)
            with contextlib.suppress(OSError):  # the run may take the last block first
                left = 4096 * self.rng.randrange(1, 20)
                (disk / "filler").write_bytes(b"x" * (room.f_bavail * room.f_frsize - left))
            return starved.ended(child)


def _truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _delete(path: Path, rng: random.Random) -> None:
    path.unlink()


WAYS = {"truncated": _truncate, "with a flipped bit": _flip, "deleted": _delete}


def setting() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "versions": versions(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--damages", type=int, default=10, help="fewer than kills")
    parser.add_argument("--disks", type=int, default=3, help="times that the disk is full")
    parser.add_argument("--outside", type=int, default=3, help="of each fault from outside")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="append the result to this file")
    args = parser.parse_args()
    since = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), random.Random(args.seed))
        campaign.attempt(Campaign.kills, args.kills, args.damages)
        if args.disks:
            campaign.attempt(Campaign.full_disks, args.disks)
        if args.outside:
            (Path(folder) / "outside").mkdir()
            short = Campaign(Path(folder) / "outside", campaign.rng, OUTSIDE_STEPS)
            short.from_outside(args.outside)
            campaign.done.update(short.done)
            campaign.wrong.extend(short.wrong)
    result = {
        "benchmark": "faults",
        **setting(),
        "seed": args.seed,
        "steps": {"kills, damages, disks": STEPS, "outside": OUTSIDE_STEPS},
        "seconds": round(time.perf_counter() - since),
        "kills": campaign.killed.total(),
        "killed in": dict(campaign.killed),
        "newest checkpoint": dict(campaign.damaged),
        **campaign.done,
        "wrong": campaign.wrong,
    }
    counts = {
        **{f"SIGKILL in: {where}": n for where, n in sorted(campaign.killed.items())},
        **{f"newest checkpoint: {what}": n for what, n in campaign.damaged.items()},
        **campaign.done,
        "wrong": len(campaign.wrong),
    }
    for what, n in counts.items():
        print(f"| {what} | {n:,} |")
    print(json.dumps(result))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
    return int(bool(campaign.wrong))


if __name__ == "__main__":
    sys.exit(main())
