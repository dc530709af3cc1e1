"""Every fault that a run can meet, tried from the command line: what it says, how it ends.

    python -m benchmarks.faults.errors [CASE ...] [--out FILE.md]

Runs the commands, checks exit codes, messages and what is left, and prints the table of
docs/faults.md. Needs root, for two small mounts. Exits with 1 if anything was not as it should be.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.faults import errors_outside
from benchmarks.faults.child_run import same, small_disk
from benchmarks.faults.harness import STEPS, Desk, Outcome, Said, expect, matches, until

PHOTOS = ("--data.name", "folder", "--data.eval_split", "val", "--data.image_size", "16")


def sigterm(desk: Desk) -> Outcome:
    run = desk.copy("run")
    shutil.copy(desk.stopped.err, run.err)
    run.code = desk.stopped.code
    matches(run, 1, r"(?m)^error: stopped by SIGTERM after step \d+ of 400, saved")
    return run.outcome("SIGTERM", desk.resumes(desk.copy("again")))


def sigint(desk: Desk) -> Outcome:
    return errors_outside.stopped_by(desk, signal.SIGINT, "SIGINT (Ctrl-C)")


def sigkill(desk: Desk) -> Outcome:
    run = Said(desk, "run")
    desk.signalled(run, signal.SIGKILL)
    matches(run, -9, r"^$")
    row = run.outcome("SIGKILL", "")
    row.says, row.after = "(nothing)", desk.resumes(run)
    return row


def kill_in_checkpoint(desk: Desk) -> Outcome:
    run = Said(desk, "run")
    desk.signalled(run, signal.SIGKILL, lambda: 100 in run.steps() and run.writing)
    expect(run.writing, "the checkpoint was whole before the kill")
    row = run.outcome("SIGKILL inside the writing of a checkpoint", "")
    row.says, row.after = "(nothing)", desk.resumes(run)
    expect(not run.writing, "what was not whole is still there")
    return row


def evaluation(desk: Desk) -> Outcome:
    run = Said(desk, "run")
    desk.signalled(run, signal.SIGTERM, lambda: 100 in run.steps() and run.evaluating)
    step = matches(run, 1, r"stopped by SIGTERM after step (\d+) of")[1]
    missing = {"step": int(step), "split": "eval"}.items()
    expect(not any(missing <= row.items() for row in run.rows()), "the evaluation had ended")
    row = run.outcome("SIGTERM during an evaluation", "")
    row.after = f"{desk.resumes(run)}, the evaluation made up for"
    return row


def full_disk(desk: Desk) -> Outcome:
    with small_disk(desk.folder / "small") as disk:
        expect(disk, "no mount")
        run = Said(desk, "small/run")
        with run.training() as child:
            until(lambda: 100 in run.steps(), child)
            room = os.statvfs(desk.folder / "small")
            filler = desk.folder / "small" / "filler"
            filler.write_bytes(b"x" * (room.f_bavail * room.f_frsize - 8192))
            run.code = run.ended(child)
        matches(run, 1, r"^error: .*No space left on device")
        row = run.outcome("full disk (a tmpfs of 3 MB, filled up)", "")
        again = Said(desk, "small/run").end()
        matches(again, 1, r"^error: .*No space left on device")
        filler.unlink()
        row.after = f"the same while it is full; with room, {desk.resumes(run)}"
        return row


def read_only(desk: Desk) -> Outcome:
    with small_disk(desk.folder / "small") as disk:
        expect(disk, "no mount")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        run = Said(desk, "small/run").end()
        matches(run, 2, r"^error: workdir .*Read-only file system")
        return run.outcome("a new run on a read-only file system", "-")


def read_only_resume(desk: Desk) -> Outcome:
    with small_disk(desk.folder / "small") as disk:
        expect(disk, "no mount")
        shutil.copytree(desk.stopped.path, desk.folder / "small" / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        run = Said(desk, "small/run").end()
        matches(run, 1, r"^error: .*Read-only file system")
        row = run.outcome("a resume on a read-only file system", "")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        row.after = f"writable again, {desk.resumes(run)}"
        return row


def newest(way: str) -> Callable[[Desk], Outcome]:
    def case(desk: Desk) -> Outcome:
        run = desk.copy("run")
        before, step = run.steps()[-2:]
        arrays = (run.checkpoints / str(step)).rglob("d/*")  # beside them is what nothing reads
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
        good = same(run.content(STEPS), desk.whole.content(STEPS))
        expect(good and run.rows() == desk.whole.rows(), "the end is not bit-identical")
        name = path.relative_to(run.checkpoints)
        where = "/".join([*name.parts[:2], ".."])
        did = f"newest checkpoint: {way} ({where}, its largest file of arrays)"
        return run.outcome(did, f"resumes after step {before}; ends bit-identical")

    return case


def all_damaged(desk: Desk) -> Outcome:
    run = desk.copy("run")
    for path in run.checkpoints.glob("*/progress/metadata"):
        path.write_bytes(path.read_bytes()[:-50])
    there = run.steps()
    matches(run.end(), 1, r"^error: none of the checkpoints in .* can be restored")
    expect(run.steps() == there, "it touched them")
    return run.outcome("all checkpoints damaged", "all are left as they were")


def eval_damaged(desk: Desk) -> Outcome:
    run = desk.copy("run")
    for path in (run.checkpoints / "100").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-50])
    run.args = [sys.executable, "-m", "train", "eval", str(run.path)]
    run.end()
    matches(run, 2, r"^error: checkpoint 100 in .* is damaged .*choose another: --checkpoint \d+")
    row = run.outcome("`eval` of a damaged best checkpoint", "")
    row.command = "resnet-jax eval run"
    run.args += ["--checkpoint", "last"]
    expect(run.end().code == 0, run.text)
    row.after = "`--checkpoint last` works"
    return row


def eval_all_damaged(desk: Desk) -> Outcome:
    run = desk.copy("run")
    for path in run.checkpoints.glob("*/progress/metadata"):
        path.write_bytes(path.read_bytes()[:-50])
    run.args = [sys.executable, "-m", "train", "eval", str(run.path)]
    there = run.steps()
    matches(run.end(), 2, r"^error: checkpoint \d+ in .* is damaged .*no other one is whole")
    expect(run.steps() == there, "it touched them")
    row = run.outcome("`eval`, all checkpoints damaged", "all are left as they were")
    row.command = "resnet-jax eval run"
    return row


def other_model(desk: Desk) -> Outcome:
    other = Said(desk, "other", "--model.width", "4", "--duration", "300st").end()
    run = desk.copy("run")
    shutil.copytree(other.checkpoints / "300", run.checkpoints / "300")
    matches(run.end(), 2, r"^error: .*300 is a checkpoint of another model: ")
    row = run.outcome("a checkpoint of another model, copied in as the newest", "")
    shutil.rmtree(run.checkpoints / "300")
    row.after = f"taken out again, {desk.resumes(run)}"
    return row


def diverges(desk: Desk) -> Outcome:
    run = Said(desk, "run", "--optim.lr", "1e6", "--optim.lr_batch", "32").end()
    matches(run, 1, r"^error: \w+ is not finite at step \d+ \(learning rate ")
    kept = json.loads((run.path / "anomaly.json").read_text())
    expect(len(kept["examples"]) == 32 and kept["before"] == [], str(kept))
    first = json.dumps({**kept, "examples": kept["examples"][:1]})
    shown = first.replace("}]", "}, ... 32 of them]")
    return run.outcome("a loss that is not finite", f"anomaly.json: `{shown}`")


def bright(limit: int) -> Callable[[Desk], Outcome]:
    """One image is white, all others are black; divided by next to nothing, white overflows."""

    def case(desk: Desk) -> Outcome:
        images = np.zeros((320, 8, 8, 1), np.uint8)
        images[200] = 255
        labels = np.arange(320) % 10
        path, test, known = desk.folder / "bright.npz", images[:100], labels[:100]
        np.savez(path, x_train=images, y_train=labels, x_test=test, y_test=known)
        options = (
            *("--data.name", "npz", "--data.dir", str(path)),
            *("--data.mean", "0", "--data.std", "1.2e-38", "--duration", "60st"),
        )
        run = Said(desk, "run", *options, "--skip_nonfinite", str(limit)).end()
        kept = json.loads((run.path / "anomaly.json").read_text())
        steps = [entry["step"] for entry in [*kept["before"], kept]]
        left_out = min(limit, 6)
        for entry in [*kept["before"], kept]:
            expect("train[200]" in [e["name"] for e in entry["examples"]], str(entry))
        after = f"anomaly.json names steps {', '.join(map(str, steps))}: each has that example"
        if limit < 6:
            matches(run, 1, rf"is not finite at step \d+ .*after {limit} skipped steps")
            expect(len(steps) == limit + 1, str(steps))
            return run.outcome("an example that overflows, once an epoch; limit reached", after)
        expect(run.code == 0 and len(steps) == left_out, f"{steps} {run.text}")
        expect(run.rows()[-2]["nonfinite"] == left_out, str(run.rows()[-2]))
        row = run.outcome("the same; limit not reached", after)
        row.says = next(s for s in run.out.read_text().splitlines() if "is left out" in s)
        return row

    return case


def bad_image(desk: Desk) -> Outcome:
    root = desk.photos("photos")
    (root / "train" / "blue" / "05.png").write_text("no image at all")
    options = (*PHOTOS, "--data.dir", str(root))
    run = Said(desk, "run", *options).end()
    matches(run, 2, r"^error: train/blue/05.png: not an image")
    row = run.outcome("a file that is no image", "")
    again = Said(desk, "run", *options, "--data.on_bad_image", "skip").end()
    matches(again, 0, "")
    row.after = "with `--data.on_bad_image skip` it goes on and ends"
    return row


def bad_image_skipped(desk: Desk) -> Outcome:
    root = desk.photos("photos")
    (root / "train" / "blue" / "05.png").write_text("no image at all")
    run = Said(desk, "run", *PHOTOS, "--data.dir", str(root), "--data.on_bad_image", "skip").end()
    expect(run.code == 0 and run.rows()[-2]["skipped"] == 1, run.text)
    row = run.outcome("the same, left out", 'metrics.jsonl: `"skipped": 1`')
    row.says = next(s for s in run.out.read_text().splitlines() if "unreadable" in s)
    return row


def broken(path: Path) -> bytes:
    """Makes a file one whose reads fail with EIO, and returns what it was."""
    content = path.read_bytes()
    path.unlink()
    path.symlink_to("/proc/self/mem")
    return content


def passing(desk: Desk) -> Outcome:
    root = desk.photos("photos")
    path = root / "train" / "blue" / "05.png"
    content = broken(path)
    run = Said(desk, "run", *PHOTOS, "--data.dir", str(root), "--data.retries", "8")
    with run.training() as child:
        until((run.path / "config.json").exists, child)
        time.sleep(1)
        (root / "again").write_bytes(content)
        os.replace(root / "again", path)
        run.code = run.ended(child)
    matches(run, 0, "^$")
    tried = run.rows()[-2]["retried"]
    expect(tried > 0, str(tried))
    did = "reads of a file fail for a second (EIO: a link to /proc/self/mem stands for it)"
    row = run.outcome(did, f'metrics.jsonl: `"retried": {tried}`')
    row.says = "(nothing on stderr)"
    return row


def storage_down(desk: Desk) -> Outcome:
    root = desk.photos("photos")
    run = Said(desk, "run", *PHOTOS, "--data.dir", str(root))
    path = root / "train" / "blue" / "05.png"
    with run.training() as child:
        until(lambda: 100 in run.steps(), child)
        content = broken(path)
        run.code = run.ended(child)
    matches(run, 1, r"^error: train/blue/05.png: .*Input/output error.*tried 6 times")
    row = run.outcome("the same, for good, from the middle of the run", "")
    path.unlink()
    path.write_bytes(content)
    before = run.steps()[-1]
    again = Said(desk, "run", *run.options).end()
    expect(again.code == 0 and f"after step {before} of" in again.out.read_text(), again.text)
    row.after = f"read again, the same command resumes after step {before} and ends"
    return row


def stalled(desk: Desk) -> Outcome:
    root = desk.photos("photos")
    run = Said(desk, "run", *PHOTOS, "--data.dir", str(root), "--data.stall_seconds", "2")
    path = root / "train" / "blue" / "05.png"
    content = path.read_bytes()
    with run.training() as child:
        until(lambda: 100 in run.steps(), child)
        os.mkfifo(root / "pipe")
        os.replace(root / "pipe", path)
        until(lambda: run.text.count("warning: no batch for") == 2, child)
        since = time.monotonic()
        child.terminate()
        run.code = run.ended(child)
        took = time.monotonic() - since
    step = matches(run, 1, r"error: stopped by SIGTERM after step (\d+) of 400, saved")[1]
    expect(run.steps()[-1] == int(step), f"{run.steps()}")
    did = "a file that nobody ever answers for (a named pipe); SIGTERM after the second warning"
    row = run.outcome(did, "")
    path.unlink()
    path.write_bytes(content)
    again = Said(desk, "run", *run.options).end()
    expect(again.code == 0 and f"after step {step} of" in again.out.read_text(), again.text)
    row.after = f"ended {took:.1f} s after SIGTERM: stopped after step {step}, saved; resumes there"
    return row


def two_processes(desk: Desk) -> Outcome:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = ("--mesh.coordinator", f"127.0.0.1:{port}", "--mesh.processes", "2")
    one, two = (Said(desk, "run", *place, "--mesh.process_id", str(k)) for k in (0, 1))
    two.out, two.err = desk.folder / "two.out", desk.folder / "two.err"
    with one.training() as first, two.training() as second:
        until(lambda: 100 in one.steps(), first, second)
        since = time.monotonic()
        second.kill()
        one.code = one.ended(first)
        took = time.monotonic() - since
    matches(one, 1, r"error: .*process 1")
    row = one.outcome("two processes, one killed (SIGKILL): the other", "")
    row.command = row.command.replace(str(port), "PORT")
    before = one.steps()[-1]
    with one.training() as first, two.training() as second:
        expect((one.ended(first), two.ended(second)) == (0, 0), one.text + two.text)
    expect(f"resumes after step {before} of" in one.out.read_text(), one.out.read_text())
    row.after = f"ended after {took:.1f} s; both again: resume after step {before} and end"
    return row


CASES: dict[str, Callable[[Desk], Outcome]] = {
    "sigterm": sigterm,
    "sigint": sigint,
    "evaluation": evaluation,
    "sigkill": sigkill,
    "kill_in_checkpoint": kill_in_checkpoint,
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
    "diverges": diverges,
    "skip_reached": bright(2),
    "skip": bright(10),
    "bad_image": bad_image,
    "bad_image_skipped": bad_image_skipped,
    "passing": passing,
    "storage_down": storage_down,
    "stalled": stalled,
    "two_processes": two_processes,
    **errors_outside.CASES,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; none: all")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    args = parser.parse_args()
    lines = ["| what was done | command | exit | says first | then |", "|---|---|---|---|---|"]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        for name in args.cases or CASES:
            desk.folder = Path(folder) / name
            desk.folder.mkdir()
            try:
                row = CASES[name](desk)
            except (AssertionError, OSError, subprocess.SubprocessError, LookupError) as error:
                print(f"WRONG: {name}: {error!r}", flush=True)
                wrong += 1
                continue
            lines.append(row.line())
            print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    print(f"{len(lines) - 2} as they should be, {wrong} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
