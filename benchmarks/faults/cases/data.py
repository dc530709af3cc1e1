"""Examples and files of the data: not finite, unreadable, slow, changed, too few."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.faults.harness import CaseRun, Harness, Outcome, expect, matches, until
from benchmarks.faults.outside import PHOTOS, photos

SPLIT_PHOTOS = ("--data.name", "folder", "--data.eval_split", "val", "--data.image_size", "16")


def diverges(harness: Harness) -> Outcome:
    run = CaseRun(harness, "run", "--optim.lr", "1e6", "--optim.lr_batch", "32").end()
    matches(run, 1, r"^error: \w+ is not finite at step \d+ \(learning rate ")
    kept = json.loads((run.path / "anomaly.json").read_text())
    expect(len(kept["examples"]) == 32 and kept["before"] == [], str(kept))
    first = json.dumps({**kept, "examples": kept["examples"][:1]})
    shown = first.replace("}]", "}, ... 32 of them]")
    return run.outcome("a loss that is not finite", f"anomaly.json: `{shown}`")


def bright(limit: int) -> Callable[[Harness], Outcome]:
    """One image is white, all others are black. Divided by a tiny std, white overflows."""

    def case(harness: Harness) -> Outcome:
        images = np.zeros((320, 8, 8, 1), np.uint8)
        images[200] = 255
        labels = np.arange(320) % 10
        path, test, known = harness.folder / "bright.npz", images[:100], labels[:100]
        np.savez(path, x_train=images, y_train=labels, x_test=test, y_test=known)
        options = (
            *("--data.name", "npz", "--data.dir", str(path)),
            *("--data.mean", "0", "--data.std", "1.2e-38", "--duration", "60st"),
        )
        run = CaseRun(harness, "run", *options, "--skip_nonfinite", str(limit)).end()
        kept = json.loads((run.path / "anomaly.json").read_text())
        steps = [entry["step"] for entry in [*kept["before"], kept]]
        skipped = min(limit, 6)
        for entry in [*kept["before"], kept]:
            expect("train[200]" in [e["name"] for e in entry["examples"]], str(entry))
        after = f"anomaly.json names steps {', '.join(map(str, steps))}: each has that example"
        if limit < 6:
            matches(run, 1, rf"is not finite at step \d+ .*after {limit} skipped steps")
            expect(len(steps) == limit + 1, str(steps))
            return run.outcome("an example that overflows, once an epoch; limit reached", after)
        expect(run.code == 0 and len(steps) == skipped, f"{steps} {run.text}")
        expect(run.rows()[-2]["nonfinite"] == skipped, str(run.rows()[-2]))
        row = run.outcome("the same; limit not reached", after)
        row.message = next(s for s in run.out.read_text().splitlines() if "is skipped" in s)
        return row

    return case


def bad_image(harness: Harness) -> Outcome:
    root = harness.photos("photos")
    (root / "train" / "blue" / "05.png").write_text("no image at all")
    options = (*SPLIT_PHOTOS, "--data.dir", str(root))
    run = CaseRun(harness, "run", *options).end()
    matches(run, 2, r"^error: train/blue/05.png: not an image")
    row = run.outcome("a file that is no image", "")
    again = CaseRun(harness, "run", *options, "--data.on_bad_image", "skip").end()
    matches(again, 0, "")
    row.result = "with `--data.on_bad_image skip` it goes on and ends"
    return row


def bad_image_skipped(harness: Harness) -> Outcome:
    root = harness.photos("photos")
    (root / "train" / "blue" / "05.png").write_text("no image at all")
    run = CaseRun(
        harness, "run", *SPLIT_PHOTOS, "--data.dir", str(root), "--data.on_bad_image", "skip"
    ).end()
    expect(run.code == 0 and run.rows()[-2]["skipped"] == 1, run.text)
    row = run.outcome("the same, skipped", 'metrics.jsonl: `"skipped": 1`')
    row.message = next(s for s in run.out.read_text().splitlines() if "unreadable" in s)
    return row


def fail_reads(path: Path) -> bytes:
    """Replaces a file by one whose reads fail with EIO; returns the old content."""
    content = path.read_bytes()
    path.unlink()
    path.symlink_to("/proc/self/mem")
    return content


def transient(harness: Harness) -> Outcome:
    root = harness.photos("photos")
    path = root / "train" / "blue" / "05.png"
    content = fail_reads(path)
    run = CaseRun(harness, "run", *SPLIT_PHOTOS, "--data.dir", str(root), "--data.retries", "8")
    with run.training() as child:
        until((run.path / "config.json").exists, child)
        time.sleep(1)
        (root / "again").write_bytes(content)
        os.replace(root / "again", path)
        run.code = run.wait(child)
    matches(run, 0, "^$")
    tried = run.rows()[-2]["retried"]
    expect(tried > 0, str(tried))
    fault = "reads of a file fail for a second (EIO, by a link to /proc/self/mem)"
    row = run.outcome(fault, f'metrics.jsonl: `"retried": {tried}`')
    row.message = "(nothing on stderr)"
    return row


def storage_down(harness: Harness) -> Outcome:
    root = harness.photos("photos")
    run = CaseRun(harness, "run", *SPLIT_PHOTOS, "--data.dir", str(root))
    path = root / "train" / "blue" / "05.png"
    with run.training() as child:
        until(lambda: 100 in run.steps(), child)
        content = fail_reads(path)
        run.code = run.wait(child)
    matches(run, 1, r"^error: train/blue/05.png: .*Input/output error.*tried 6 times")
    row = run.outcome("the same, permanently, from the middle of the run", "")
    path.unlink()
    path.write_bytes(content)
    before = run.steps()[-1]
    again = CaseRun(harness, "run", *run.options).end()
    expect(again.code == 0 and f"after step {before} of" in again.out.read_text(), again.text)
    row.result = f"read again, the same command resumes after step {before} and ends"
    return row


def stalled(harness: Harness) -> Outcome:
    root = harness.photos("photos")
    run = CaseRun(
        harness, "run", *SPLIT_PHOTOS, "--data.dir", str(root), "--data.stall_seconds", "2"
    )
    path = root / "train" / "blue" / "05.png"
    content = path.read_bytes()
    with run.training() as child:
        until(lambda: 100 in run.steps(), child)
        os.mkfifo(root / "pipe")
        os.replace(root / "pipe", path)
        until(lambda: run.text.count("warning: no batch for") == 2, child)
        since = time.monotonic()
        child.terminate()
        run.code = run.wait(child)
        took = time.monotonic() - since
    step = matches(run, 1, r"error: stopped by SIGTERM after step (\d+) of 400, saved")[1]
    expect(run.steps()[-1] == int(step), f"{run.steps()}")
    fault = "a file whose read never returns (a named pipe); SIGTERM after the second warning"
    row = run.outcome(fault, "")
    path.unlink()
    path.write_bytes(content)
    again = CaseRun(harness, "run", *run.options).end()
    expect(again.code == 0 and f"after step {step} of" in again.out.read_text(), again.text)
    row.result = (
        f"ended {took:.1f} s after SIGTERM: stopped after step {step}, saved; resumes there"
    )
    return row


def large_batch(harness: Harness) -> Outcome:
    run = CaseRun(harness, "run", "--batch_size", "4096").end()
    matches(run, 2, r"^error: batch_size 4096: there are 1438 training images, .*2.8 epochs")
    return run.outcome("a batch larger than the data", "nothing was written")


def changed_files(harness: Harness) -> Outcome:
    root = photos(harness.folder / "photos")
    run = CaseRun(harness, "run", *PHOTOS, "--data.dir", str(root)).end()
    matches(run, 0, "")
    content = (root / "red" / "00.png").read_bytes()
    (root / "red" / "zz.png").write_bytes(content)
    (root / "red" / "05.png").unlink()
    matches(run.end(), 2, r"^error: .*have changed")
    return run.outcome("one file of the data added and one removed before a resume", "-")


CASES: dict[str, Callable[[Harness], Outcome]] = {
    "diverges": diverges,
    "skip_reached": bright(2),
    "skip": bright(10),
    "bad_image": bad_image,
    "bad_image_skipped": bad_image_skipped,
    "transient": transient,
    "storage_down": storage_down,
    "stalled": stalled,
    "large_batch": large_batch,
    "changed_files": changed_files,
}
