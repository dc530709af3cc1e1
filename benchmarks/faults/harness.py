"""Where faults are tried from the command line: runs, what they said, and what was expected."""

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

from benchmarks.faults.child_run import LIMIT, OPTIONS, Workdir, environment, same

STEPS = 400
TINY = (*OPTIONS, "--duration", f"{STEPS}st")


@dataclass
class Outcome:
    """A row of the table."""

    did: str
    command: str
    code: int
    says: str
    after: str

    def line(self) -> str:
        """In Markdown."""
        code = self.code if self.code >= 0 else 128 - self.code  # as a shell says it
        quote = "``" if "`" in self.says else "`"
        says = self.says if self.says.startswith("(") else f"{quote}{self.says}{quote}"
        return f"| {self.did} | `{self.command}` | {code} | {says} | {self.after} |"


class Said(Workdir):
    """A run's directory and its last process, as a row of the table wants them."""

    def __init__(self, desk: "Desk", name: str, *options: str) -> None:
        super().__init__(desk.folder / name, desk.folder, desk.env, STEPS, *options)
        self.options, self.code = options, 0

    def end(self) -> "Said":
        """Trains to the end."""
        self.code = self.to_the_end()
        return self

    @property
    def text(self) -> str:
        return self.err.read_text()

    def outcome(self, did: str, after: str) -> Outcome:
        folder = f"{self.path.parent}/"
        lines = self.text.strip() or self.out.read_text().strip().splitlines()[-1]
        passing = re.compile(r"SIG\w+: stopping after this step")  # the answer to a signal
        first = next(line for line in lines.splitlines() if not passing.match(line))
        words = " ".join(["resnet-jax train digits --workdir", self.path.name, "$TINY"])
        said = first.replace(folder, "").replace(str(self.path.parent.parent) + "/", "")
        options = " ".join(self.options).replace(folder, "")
        return Outcome(did, f"{words} {options}".strip(), self.code, said, after)


class Desk:
    """Where the cases work: a folder, and a run that was stopped on the way."""

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        """`cache`: of compiled programs; None: one in `folder`."""
        self.folder, self.env = folder, environment(cache or folder / "cache")
        self.whole = Said(self, "whole").end()
        assert self.whole.code == 0, self.whole.text
        self.stopped = Said(self, "stopped")
        self.signalled(self.stopped, signal.SIGTERM)

    def signalled(self, run: Said, number: int, when: Callable[[], bool] | None = None) -> None:
        """Trains until there is a checkpoint, or `when`, and sends a signal."""
        with run.training() as child:
            until(when or (lambda: 100 in run.steps()), child)
            child.send_signal(number)
            run.code = run.ended(child)

    def copy(self, name: str, *options: str) -> Said:
        """A copy of the stopped run."""
        shutil.copytree(self.stopped.path, self.folder / name)
        return Said(self, name, *options)

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

    def resumes(self, run: Said) -> str:
        """The same command again: it goes on, and ends as the undisturbed run did."""
        before = run.steps()[-1]
        again = Said(self, run.path.relative_to(self.folder).as_posix(), *run.options)
        expect(again.end().code == 0, again.text)
        said = again.out.read_text()
        expect(f"resumes after step {before} of" in said, said)
        good = same(again.content(STEPS), self.whole.content(STEPS))
        expect(good and again.rows() == self.whole.rows(), "the end is not bit-identical")
        return f"resumes after step {before}; ends bit-identical"


def expect(good: object, said: str) -> None:
    if not good:
        raise AssertionError(said)


def matches(run: Said, code: int, pattern: str) -> re.Match[str]:
    """Checks exit code and message."""
    found = re.search(pattern, run.text)
    expect(run.code == code and found and "Traceback" not in run.text, f"{run.code}: {run.text}")
    assert found
    return found


def until(there: Callable[[], bool], *children: subprocess.Popen[bytes]) -> None:
    """Waits; raises if a child ends before, or after `LIMIT` seconds."""
    end = time.monotonic() + LIMIT
    while not there():
        expect(all(child.poll() is None for child in children), "it ended before")
        expect(time.monotonic() < end, f"what the case waits for did not come within {LIMIT:g} s")
        time.sleep(0.0005)
