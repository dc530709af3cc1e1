"""Cases of `benchmarks.faults.errors` from outside a run, or from the command that starts it."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable

from benchmarks.faults.child_run import LIMIT, same
from benchmarks.faults.harness import STEPS, Desk, Outcome, Said, expect, matches, until
from benchmarks.faults.outside import PHOTOS, photos


def stopped_by(desk: Desk, number: signal.Signals, title: str) -> Outcome:
    """A signal in the middle of training saves, and the same command resumes there."""
    run = Said(desk, "run")
    desk.signalled(run, number)
    matches(run, 1, rf"(?m)^error: stopped by {number.name} after step \d+ of 400, saved")
    row = run.outcome(title, "")
    row.after = desk.resumes(run)
    return row


def sighup(desk: Desk) -> Outcome:
    title = "SIGHUP (a connection that is lost, a terminal that is closed)"
    return stopped_by(desk, signal.SIGHUP, title)


def unread(desk: Desk) -> Outcome:
    run = Said(desk, "run")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(run.args, env=run.env, stdout=writer, check=False, timeout=LIMIT)
    run.code = done.returncode
    os.close(writer)
    good = same(run.content(STEPS), desk.whole.content(STEPS)) and run.rows() == desk.whole.rows()
    expect(run.code == 0 and good, f"{run.code}")
    did, command = "stdout that nobody reads any more", "resnet-jax train digits ... \\| head -2"
    return Outcome(did, command, run.code, "(two lines)", "trains to its end, bit-identical")


def brackets(desk: Desk) -> Outcome:
    run = Said(desk, "exp[1]").end()
    matches(run, 0, "^$")
    good = same(run.content(STEPS), desk.whole.content(STEPS)) and run.rows() == desk.whole.rows()
    expect(good, "the end is not bit-identical")
    row = run.outcome("a directory with brackets, stars, spaces ... in its name", "")
    row.says, row.after = "(nothing on stderr)", "ends bit-identical"
    return row


def backslash(desk: Desk) -> Outcome:
    run = Said(desk, "back\\slash").end()
    matches(run, 2, r"^error: workdir .*: checkpoints cannot be kept there: .* has a backslash")
    expect(not run.path.exists(), "it was made")
    return run.outcome("a directory in which checkpoints cannot be kept", "nothing was written")


def second_process(desk: Desk) -> Outcome:
    run, second = Said(desk, "run"), Said(desk, "run")
    second.out, second.err = desk.folder / "second.out", desk.folder / "second.err"
    with run.training() as child:
        until(lambda: bool(run.steps()), child)
        second.end()
        matches(
            second, 2, rf"^error: another process \(pid {child.pid} on .*, since .*\) trains in"
        )
        expect(run.ended(child) == 0, run.text)
    good = same(run.content(STEPS), desk.whole.content(STEPS)) and run.rows() == desk.whole.rows()
    expect(good, "the end is not bit-identical")
    row = second.outcome("the same command while it trains (a second terminal, a requeue)", "")
    row.after = "the first one ends bit-identical"
    return row


def failed_start(desk: Desk) -> Outcome:
    run = desk.copy("run", "--optim.lr", "0.2")
    shutil.rmtree(run.checkpoints)
    run.end()
    matches(run, 0, "^$")
    says = next(s for s in run.out.read_text().splitlines() if "without a checkpoint" in s)
    row = run.outcome(
        "corrected options after a start that left no checkpoint", "trains to its end"
    )
    row.says = says.replace(f"{run.path.parent}/", "")
    return row


def other_options(desk: Desk) -> Outcome:
    run = desk.copy("run", "--duration", "500st").end()
    matches(run, 2, r"^error: workdir .* holds another run; .*add --extend")
    row = run.outcome("a longer duration", "")
    row.after = "with `--extend` it goes on, as the next row shows"
    return row


def extend(desk: Desk) -> Outcome:
    run = desk.copy("run", "--duration", "500st", "--extend")
    before = run.steps()[-1]
    matches(run.end(), 0, "^$")
    segments = json.loads((run.path / "config.json").read_text())["segments"]
    expect([s["from_step"] for s in segments] == [0, before], str(segments))
    row = run.outcome("the same with --extend", "config.json has two segments")
    row.says = next(s for s in run.out.read_text().splitlines() if s.startswith("extended from"))
    return row


def newer_version(desk: Desk) -> Outcome:
    run = desk.copy("run")
    path = run.path / "config.json"
    tree = json.loads(path.read_text())
    tree["optim"]["lookahead"] = 5
    path.write_text(json.dumps(tree))
    matches(run.end(), 2, r"^error: .*config.json: .*does not know optim.lookahead \(5\)")
    row = run.outcome("a config.json with a field of another version", "")
    del tree["optim"]["lookahead"]
    path.write_text(json.dumps(tree))
    row.after = f"deleted from the file, {desk.resumes(run)}"
    return row


def large_batch(desk: Desk) -> Outcome:
    run = Said(desk, "run", "--batch_size", "4096").end()
    matches(run, 2, r"^error: batch_size 4096: there are 1438 training images, .*2.8 epochs")
    return run.outcome("a batch larger than the data", "nothing was written")


def changed_files(desk: Desk) -> Outcome:
    root = photos(desk.folder / "photos")
    run = Said(desk, "run", *PHOTOS, "--data.dir", str(root)).end()
    matches(run, 0, "")
    content = (root / "red" / "00.png").read_bytes()
    (root / "red" / "zz.png").write_bytes(content)
    (root / "red" / "05.png").unlink()
    matches(run.end(), 2, r"^error: .*have changed")
    return run.outcome("one file of the data more, and one less, before a resume", "-")


CASES: dict[str, Callable[[Desk], Outcome]] = {
    "sighup": sighup,
    "unread": unread,
    "brackets": brackets,
    "backslash": backslash,
    "second_process": second_process,
    "failed_start": failed_start,
    "other_options": other_options,
    "extend": extend,
    "newer_version": newer_version,
    "large_batch": large_batch,
    "changed_files": changed_files,
}
