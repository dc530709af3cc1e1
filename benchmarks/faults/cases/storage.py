"""Full and read-only disks, damaged checkpoints, directories with unusual names."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

from benchmarks.faults.child_run import small_disk
from benchmarks.faults.harness import CaseRun, Harness, Outcome, expect, matches, until


def full_disk(harness: Harness) -> Outcome:
    with small_disk(harness.folder / "small") as disk:
        expect(disk, "no mount")
        run = CaseRun(harness, "small/run")
        with run.training() as child:
            until(lambda: 100 in run.steps(), child)
            room = os.statvfs(harness.folder / "small")
            filler = harness.folder / "small" / "filler"
            filler.write_bytes(b"x" * (room.f_bavail * room.f_frsize - 8192))
            run.code = run.wait(child)
        matches(run, 1, r"^error: .*No space left on device")
        row = run.outcome("full disk (a tmpfs of 3 MB, filled up)", "")
        again = CaseRun(harness, "small/run").end()
        matches(again, 1, r"^error: .*No space left on device")
        filler.unlink()
        row.result = f"the same while it is full; with room, {harness.resumes(run)}"
        return row


def read_only(harness: Harness) -> Outcome:
    with small_disk(harness.folder / "small") as disk:
        expect(disk, "no mount")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        run = CaseRun(harness, "small/run").end()
        matches(run, 2, r"^error: workdir .*Read-only file system")
        return run.outcome("a new run on a read-only file system", "-")


def read_only_resume(harness: Harness) -> Outcome:
    with small_disk(harness.folder / "small") as disk:
        expect(disk, "no mount")
        shutil.copytree(harness.stopped.path, harness.folder / "small" / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        run = CaseRun(harness, "small/run").end()
        matches(run, 1, r"^error: .*Read-only file system")
        row = run.outcome("a resume on a read-only file system", "")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        row.result = f"writable again, {harness.resumes(run)}"
        return row


def newest(way: str) -> Callable[[Harness], Outcome]:
    def case(harness: Harness) -> Outcome:
        run = harness.copy("run")
        before, step = run.steps()[-2:]
        arrays = (run.checkpoints / str(step)).rglob("d/*")  # other files are not read
        path = max(arrays, key=lambda p: p.stat().st_size)
        content = path.read_bytes()
        if way == "bit flipped":
            half = len(content) // 2
            path.write_bytes(content[:half] + bytes([content[half] ^ 16]) + content[half + 1 :])
        elif way == "truncated":
            path.write_bytes(content[: len(content) // 2])
        else:
            path.unlink()
        run.end()
        aside = rf"quarantined as .*{step}.corrupt, which may be deleted; step {before} is used"
        matches(run, 0, rf"^warning: checkpoint {step} is damaged .*; {aside}")
        expect(f"resumes after step {before} of" in run.out.read_text(), run.out.read_text())
        harness.expect_reference(run)
        name = path.relative_to(run.checkpoints)
        where = "/".join([*name.parts[:2], ".."])
        fault = f"newest checkpoint: {way} ({where}, its largest file of arrays)"
        return run.outcome(fault, f"resumes after step {before}; ends bit-identical")

    return case


def all_damaged(harness: Harness) -> Outcome:
    run = harness.copy("run")
    for path in run.checkpoints.glob("*/progress/metadata"):
        path.write_bytes(path.read_bytes()[:-50])
    there = run.steps()
    matches(run.end(), 1, r"^error: none of the checkpoints in .* can be restored")
    expect(run.steps() == there, "a checkpoint was changed")
    return run.outcome("all checkpoints damaged", "all are left as they were")


def eval_damaged(harness: Harness) -> Outcome:
    run = harness.copy("run")
    for path in (run.checkpoints / "100").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-50])
    run.args = [sys.executable, "-m", "train", "eval", str(run.path)]
    run.end()
    matches(run, 2, r"^error: checkpoint 100 in .* is damaged .*choose another: --checkpoint \d+")
    row = run.outcome("`eval` of a damaged best checkpoint", "")
    row.command = "resnet-jax eval run"
    run.args += ["--checkpoint", "last"]
    expect(run.end().code == 0, run.text)
    row.result = "`--checkpoint last` works"
    return row


def eval_all_damaged(harness: Harness) -> Outcome:
    run = harness.copy("run")
    for path in run.checkpoints.glob("*/progress/metadata"):
        path.write_bytes(path.read_bytes()[:-50])
    run.args = [sys.executable, "-m", "train", "eval", str(run.path)]
    there = run.steps()
    matches(run.end(), 2, r"^error: checkpoint \d+ in .* is damaged .*no other one is whole")
    expect(run.steps() == there, "a checkpoint was changed")
    row = run.outcome("`eval`, all checkpoints damaged", "all are left as they were")
    row.command = "resnet-jax eval run"
    return row


def other_model(harness: Harness) -> Outcome:
    other = CaseRun(harness, "other", "--model.width", "4", "--duration", "300st").end()
    run = harness.copy("run")
    shutil.copytree(other.checkpoints / "300", run.checkpoints / "300")
    matches(run.end(), 2, r"^error: .*300 is a checkpoint of another model: ")
    row = run.outcome("a checkpoint of another model, copied in as the newest", "")
    shutil.rmtree(run.checkpoints / "300")
    row.result = f"taken out again, {harness.resumes(run)}"
    return row


def brackets(harness: Harness) -> Outcome:
    run = CaseRun(harness, "exp[1]").end()
    matches(run, 0, "^$")
    harness.expect_reference(run)
    row = run.outcome("a directory with brackets, stars, spaces ... in its name", "")
    row.message, row.result = "(nothing on stderr)", "ends bit-identical"
    return row


def backslash(harness: Harness) -> Outcome:
    run = CaseRun(harness, "back\\slash").end()
    matches(
        run, 2, r"^error: workdir .*: checkpoints cannot be stored there: .* contains a backslash"
    )
    expect(not run.path.exists(), "the directory was made")
    return run.outcome("a directory in which checkpoints cannot be kept", "nothing was written")


CASES: dict[str, Callable[[Harness], Outcome]] = {
    "full_disk": full_disk,
    "read_only": read_only,
    "read_only_resume": read_only_resume,
    "truncated": newest("truncated"),
    "flipped": newest("bit flipped"),
    "missing": newest("deleted"),
    "all_damaged": all_damaged,
    "eval_damaged": eval_damaged,
    "eval_all_damaged": eval_all_damaged,
    "other_model": other_model,
    "brackets": brackets,
    "backslash": backslash,
}
