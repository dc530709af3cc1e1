"""A run whose file system becomes full at random moments."""

import contextlib
import os
import time
from pathlib import Path

from benchmarks.faults.campaign import Campaign
from benchmarks.faults.child_run import Workdir, small_disk


def full_disks(campaign: Campaign, count: int) -> None:
    """Fills the file system of a run `count` times and frees it after each; needs root."""
    with small_disk(campaign.folder / "disk") as disk:
        if disk is None:
            print("no small disk can be mounted: full disks are skipped", flush=True)
            return
        run, expected = campaign.workdir("disk/run"), 0
        for number in range(1, count + 1):
            code = _fill(campaign, run, disk)
            stderr = run.err.read_text()
            campaign.check_restart(run, expected)
            good = code == 1 and stderr.startswith("error: ") and "No space left" in stderr
            campaign.check(good, f"full disk: exit code {code}, {stderr!r}")
            campaign.check("Traceback" not in stderr, "full disk: a traceback")
            (disk / "filler").unlink()
            expected = campaign.check_checkpoints(run, expected, "full disk")
            campaign.count("full disks")
            print(f"full disk {number}: {stderr.strip()}", flush=True)
        campaign.check(run.run_to_end() == 0, "with free space again: failed")
        campaign.check_restart(run, expected)
        campaign.check_end(run)


def _fill(campaign: Campaign, run: Workdir, disk: Path) -> int:
    """Fills the disk at a random moment of the training; returns the exit code."""
    with run.training() as child:
        run.wait_until(lambda: run.started, child, "first step")
        time.sleep(campaign.rng.uniform(0, 2))
        room = os.statvfs(disk)
        with contextlib.suppress(OSError):  # the run may take the last block first
            free = 4096 * campaign.rng.randrange(1, 20)
            (disk / "filler").write_bytes(b"x" * (room.f_bavail * room.f_frsize - free))
        return run.wait(child)
