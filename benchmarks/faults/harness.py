"""The cases' harness: a folder with a reference run, an interrupted run, and checks of both."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.faults.child_run import LIMIT, OPTIONS, Workdir, environment, same_checkpoint

STEPS = 400
TINY = (*OPTIONS, "--duration", f"{STEPS}st")


@dataclass
class Outcome:
    """A row of the table."""

    fault: str
    command: str
    code: int
    message: str
    result: str

    def line(self) -> str:
        """The row in Markdown."""
        code = self.code if self.code >= 0 else 128 - self.code  # as a shell reports a signal
        quote = "``" if "`" in self.message else "`"
        plain = self.message.startswith("(")
        message = self.message if plain else f"{quote}{self.message}{quote}"
        return f"| {self.fault} | `{self.command}` | {code} | {message} | {self.result} |"


class CaseRun(Workdir):
    """A run's directory, the exit code of its last process, and its row of the table."""

    def __init__(self, harness: "Harness", name: str, *options: str) -> None:
        super().__init__(harness.folder / name, harness.folder, harness.env, STEPS, *options)
        self.options, self.code = options, 0

    def end(self) -> "CaseRun":
        """Trains to the end."""
        self.code = self.run_to_end()
        return self

    @property
    def text(self) -> str:
        """What the last process wrote to stderr."""
        return self.err.read_text()

    def outcome(self, fault: str, result: str) -> Outcome:
        """The row of the table, with the first message and without this machine's paths."""
        folder = f"{self.path.parent}/"
        lines = self.text.strip() or self.out.read_text().strip().splitlines()[-1]
        passing = re.compile(r"SIG\w+: stopping after this step")  # the answer to a signal
        first = next(line for line in lines.splitlines() if not passing.match(line))
        words = " ".join(["resnet-jax train digits --workdir", self.path.name, "$TINY"])
        message = first.replace(folder, "").replace(str(self.path.parent.parent) + "/", "")
        options = " ".join(self.options).replace(folder, "")
        return Outcome(fault, f"{words} {options}".strip(), self.code, message, result)


class Harness:
    """The folder of the cases, with a reference run and a run that was interrupted."""

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        """`cache`: the compilation cache; None: a folder in `folder`."""
        self.folder, self.env = folder, environment(cache or folder / "cache")
        self.reference = CaseRun(self, "whole").end()
        assert self.reference.code == 0, self.reference.text
        self.stopped = CaseRun(self, "stopped")
        self.interrupt(self.stopped, signal.SIGTERM)

    def interrupt(self, run: CaseRun, number: int, when: Callable[[], bool] | None = None) -> None:
        """Trains until `when`, by default the checkpoint of step 100, and sends a signal."""
        with run.training() as child:
            until(when or (lambda: 100 in run.steps()), child)
            child.send_signal(number)
            run.code = run.wait(child)

    def copy(self, name: str, *options: str) -> CaseRun:
        """A copy of the interrupted run."""
        shutil.copytree(self.stopped.path, self.folder / name)
        return CaseRun(self, name, *options)

    def photos(self, name: str) -> Path:
        """A folder of two classes, red and blue."""
        rng = np.random.default_rng(0)
        for split in ("train", "val"):
            for channel, colour in ((0, "red"), (2, "blue")):
                folder = self.folder / name / split / colour
                folder.mkdir(parents=True)
                for i in range(48):
                    image = rng.integers(0, 100, (16, 16, 3), np.uint8)
                    image[..., channel] += 150
                    Image.fromarray(image).save(folder / f"{i:02}.png")
        return self.folder / name

    def expect_reference(self, run: CaseRun) -> None:
        """Raises `AssertionError` unless the run ended bit-identical to the reference."""
        good = same_checkpoint(run.checkpoint(STEPS), self.reference.checkpoint(STEPS))
        expect(good and run.rows() == self.reference.rows(), "the end is not bit-identical")

    def resumes(self, run: CaseRun) -> str:
        """Runs the command again, which must resume and end bit-identical to the reference."""
        before = run.steps()[-1]
        again = CaseRun(self, run.path.relative_to(self.folder).as_posix(), *run.options)
        expect(again.end().code == 0, again.text)
        printed = again.out.read_text()
        expect(f"resumes after step {before} of" in printed, printed)
        self.expect_reference(again)
        return f"resumes after step {before}; ends bit-identical"


def expect(good: object, message: str) -> None:
    """Raises `AssertionError` with the message unless `good`."""
    if not good:
        raise AssertionError(message)


def matches(run: CaseRun, code: int, pattern: str) -> re.Match[str]:
    """Checks exit code and message."""
    found = re.search(pattern, run.text)
    expect(run.code == code and found and "Traceback" not in run.text, f"{run.code}: {run.text}")
    assert found
    return found


def until(condition: Callable[[], bool], *children: subprocess.Popen[bytes]) -> None:
    """Waits for the condition.

    Raises:
      AssertionError: a child process ended before, or `LIMIT` seconds have passed.
    """
    end = time.monotonic() + LIMIT
    while not condition():
        expect(all(child.poll() is None for child in children), "the process ended too early")
        expect(time.monotonic() < end, f"the case waited more than {LIMIT:g} s")
        time.sleep(0.0005)
