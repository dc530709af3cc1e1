"""Signals, kills, lost output and second processes."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable

from benchmarks.faults.child_run import LIMIT
from benchmarks.faults.harness import CaseRun, Harness, Outcome, expect, matches, until


def sigterm(harness: Harness) -> Outcome:
    run = harness.copy("run")
    shutil.copy(harness.stopped.err, run.err)
    run.code = harness.stopped.code
    matches(run, 1, r"(?m)^error: stopped by SIGTERM after step \d+ of 400, saved")
    return run.outcome("SIGTERM", harness.resumes(harness.copy("again")))


def sigint(harness: Harness) -> Outcome:
    return stopped_by(harness, signal.SIGINT, "SIGINT (Ctrl-C)")


def sighup(harness: Harness) -> Outcome:
    title = "SIGHUP (a connection that is lost, a terminal that is closed)"
    return stopped_by(harness, signal.SIGHUP, title)


def stopped_by(harness: Harness, number: signal.Signals, title: str) -> Outcome:
    """A signal in the middle of training saves, and the same command resumes there."""
    run = CaseRun(harness, "run")
    harness.interrupt(run, number)
    matches(run, 1, rf"(?m)^error: stopped by {number.name} after step \d+ of 400, saved")
    row = run.outcome(title, "")
    row.result = harness.resumes(run)
    return row


def evaluation(harness: Harness) -> Outcome:
    run = CaseRun(harness, "run")
    harness.interrupt(run, signal.SIGTERM, lambda: 100 in run.steps() and run.evaluating)
    step = matches(run, 1, r"stopped by SIGTERM after step (\d+) of")[1]
    missing = {"step": int(step), "split": "eval"}.items()
    expect(not any(missing <= row.items() for row in run.rows()), "the evaluation had ended")
    row = run.outcome("SIGTERM during an evaluation", "")
    row.result = f"{harness.resumes(run)}, the evaluation is repeated"
    return row


def sigkill(harness: Harness) -> Outcome:
    run = CaseRun(harness, "run")
    harness.interrupt(run, signal.SIGKILL)
    matches(run, -9, r"^$")
    row = run.outcome("SIGKILL", "")
    row.message, row.result = "(nothing)", harness.resumes(run)
    return row


def kill_in_checkpoint(harness: Harness) -> Outcome:
    run = CaseRun(harness, "run")
    harness.interrupt(run, signal.SIGKILL, lambda: 100 in run.steps() and run.writing)
    expect(run.writing, "the checkpoint was complete before the kill")
    row = run.outcome("SIGKILL inside the writing of a checkpoint", "")
    row.message, row.result = "(nothing)", harness.resumes(run)
    expect(not run.writing, "the incomplete checkpoint is still there")
    return row


def unread(harness: Harness) -> Outcome:
    run = CaseRun(harness, "run")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(run.args, env=run.env, stdout=writer, check=False, timeout=LIMIT)
    run.code = done.returncode
    os.close(writer)
    expect(run.code == 0, f"{run.code}")
    harness.expect_reference(run)
    fault, command = "stdout whose reader has exited", "resnet-jax train digits ... \\| head -2"
    return Outcome(fault, command, run.code, "(two lines)", "trains to its end, bit-identical")


def second_process(harness: Harness) -> Outcome:
    run, second = CaseRun(harness, "run"), CaseRun(harness, "run")
    second.out, second.err = harness.folder / "second.out", harness.folder / "second.err"
    with run.training() as child:
        until(lambda: bool(run.steps()), child)
        second.end()
        matches(
            second, 2, rf"^error: another process \(pid {child.pid} on .*, since .*\) trains in"
        )
        expect(run.wait(child) == 0, run.text)
    harness.expect_reference(run)
    row = second.outcome("the same command while it trains (a second terminal, a requeue)", "")
    row.result = "the first one ends bit-identical"
    return row


def two_processes(harness: Harness) -> Outcome:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = ("--mesh.coordinator", f"127.0.0.1:{port}", "--mesh.processes", "2")
    one, two = (CaseRun(harness, "run", *place, "--mesh.process_id", str(k)) for k in (0, 1))
    two.out, two.err = harness.folder / "two.out", harness.folder / "two.err"
    with one.training() as first, two.training() as second:
        until(lambda: 100 in one.steps(), first, second)
        since = time.monotonic()
        second.kill()
        one.code = one.wait(first)
        took = time.monotonic() - since
    matches(one, 1, r"error: .*process 1")
    row = one.outcome("two processes, one killed (SIGKILL): the other", "")
    row.command = row.command.replace(str(port), "PORT")
    before = one.steps()[-1]
    with one.training() as first, two.training() as second:
        expect((one.wait(first), two.wait(second)) == (0, 0), one.text + two.text)
    expect(f"resumes after step {before} of" in one.out.read_text(), one.out.read_text())
    row.result = f"ended after {took:.1f} s; both again: resume after step {before} and end"
    return row


CASES: dict[str, Callable[[Harness], Outcome]] = {
    "sigterm": sigterm,
    "sigint": sigint,
    "sighup": sighup,
    "evaluation": evaluation,
    "sigkill": sigkill,
    "kill_in_checkpoint": kill_in_checkpoint,
    "unread": unread,
    "second_process": second_process,
    "two_processes": two_processes,
}
