"""SIGKILL at random moments, and damaged checkpoints between some restarts."""

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.campaign import Campaign
from benchmarks.faults.child_run import SAVE, Workdir, same_checkpoint

AIMS = {"start": 15, "anywhere": 25, "checkpoint": 30, "evaluation": 30}
"""What kills are aimed at, and how often, in %."""
AIMED = 20
"""Kills during the writing of a checkpoint, and during an evaluation, of 100: at least."""


def kills(campaign: Campaign, count: int, damages: int) -> None:
    """Kills a run `count` times, damages `damages` checkpoints in between, and lets it end."""
    killed = KilledRun(campaign)
    enough, remaining = count * AIMED // 100, damages
    while True:
        done = campaign.killed.total()
        aimed = min(campaign.killed[where] for where in ("checkpoint", "evaluation"))
        if (done >= count and aimed >= enough and not remaining) or done >= 3 * count:
            break
        due = campaign.rng.random() * max(count - done, 1) < remaining
        if due and killed.can_be_damaged:
            killed.damage()
            remaining -= 1
        killed.start_and_kill(campaign.rng.choices(list(AIMS), list(AIMS.values()))[0])
    campaign.check(aimed >= enough and not remaining, f"after {done} kills too few were as aimed")
    killed.finish()


class KilledRun:
    """A run whose processes are killed; a new one follows each that comes to its end."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign, self._rng = campaign, campaign.rng
        self._run = campaign.workdir("torn0")
        self._expected = 0  # the step at which the next process must resume

    @property
    def can_be_damaged(self) -> bool:
        """Whether a checkpoint would remain if the newest one were damaged."""
        return len(self._run.steps()) > 1 and not self._campaign.damaged_steps

    def start_and_kill(self, aim: str) -> None:
        """One process, from its start to its kill, or to the end of the run."""
        campaign, run, seen = self._campaign, self._run, self._expected
        with run.training() as child:
            if self._wait(child, aim):
                undamaged = (s for s in run.steps() if s not in campaign.damaged_steps)
                seen = max([seen, *undamaged])
                if child.poll() is None:
                    child.kill()
            ended = run.wait(child) >= 0
        campaign.check_restart(run, self._expected)
        if ended:
            campaign.check(child.returncode == 0, f"exit code {child.returncode}: {run.err}")
            campaign.check_end(run)
            self._run = campaign.workdir(f"torn{campaign.done['runs to the end']}")
            self._expected = 0
            return
        where = self._where()
        campaign.killed[where] += 1
        self._expected = campaign.check_checkpoints(run, seen, f"kill ({where})")
        newest = f"newest undamaged step {self._expected}"
        print(f"{campaign.killed.total():4d}  {where}, {newest}", flush=True)

    def finish(self) -> None:
        """Trains undisturbed to the end."""
        self._campaign.check(self._run.run_to_end() == 0, "the last restart failed")
        self._campaign.check_restart(self._run, self._expected)
        self._campaign.check_end(self._run)

    def _wait(self, child: subprocess.Popen[bytes], aim: str) -> bool:
        """Returns when it is time to kill; False if the child ended before."""
        run, uniform = self._run, self._rng.uniform
        if aim == "start":
            time.sleep(uniform(0, 4))
            return child.poll() is None
        if not run.wait_until(lambda: run.started, child, "first step"):
            return False
        # Counted in checkpoints, not seconds: on a busy machine the run would never advance.
        goal = _newest(run) + SAVE * self._rng.randrange(5)
        if not run.wait_until(lambda: _newest(run) >= goal, child, f"checkpoint {goal}"):
            return False
        time.sleep(uniform(0, 0.5))
        if aim == "checkpoint":
            running = run.wait_until(lambda: run.writing, child, "checkpoint")
            time.sleep(uniform(0, 0.15))
            return running
        if aim == "evaluation":
            running = run.wait_until(lambda: run.evaluating, child, "evaluation")
            time.sleep(uniform(0, 0.02))
            return running
        return child.poll() is None

    def _where(self) -> str:
        """What the process was doing when it was killed; an evaluation comes first."""
        if not self._run.started:
            return "start"
        if self._run.evaluating:
            return "evaluation"
        if self._run.writing:
            return "checkpoint"
        return "end" if self._campaign.steps in self._run.steps() else "training"

    def damage(self) -> None:
        """Damages random files of the newest checkpoint until its data has changed."""
        campaign, run = self._campaign, self._run
        newest = run.steps()[-1]
        folder = run.checkpoints / str(newest)
        while True:
            files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
            path, way = self._rng.choice(files), self._rng.choice(list(DAMAGE))
            DAMAGE[way](path, self._rng)
            campaign.damaged[f"a file {way}"] += 1
            if not same_checkpoint(run.checkpoint(newest), campaign.reference.checkpoint(newest)):
                break
        campaign.damaged["damaged so that it matters"] += 1
        campaign.damaged_steps.add(newest)
        self._expected = campaign.check_checkpoints(run, 0, f"{path.name} {way}")
        print(f"      {path.relative_to(folder)} of checkpoint {newest} {way}", flush=True)


def _newest(run: Workdir) -> int:
    return max(run.steps(), default=0)


def _truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _delete(path: Path, rng: random.Random) -> None:
    path.unlink()


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "truncated": _truncate,
    "with a flipped bit": _flip,
    "deleted": _delete,
}
