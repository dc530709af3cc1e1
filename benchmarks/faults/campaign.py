"""A campaign: its counts, its reference run, and the checks of a run after a fault."""

import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.child_run import SAVE, STEPS, Workdir, environment, same_checkpoint


@dataclass
class Campaign:
    """The reference run of a campaign, the faults that were tried, and the checks that failed."""

    folder: Path
    rng: random.Random
    steps: int = STEPS
    cache: Path | None = None
    """Compilation cache; None: a folder in `folder`."""
    killed: Counter[str] = field(default_factory=Counter)
    damaged: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """A message for each check that failed."""
    damaged_steps: set[int] = field(default_factory=set)
    """Steps of the checkpoints that were damaged since the last restart."""

    def __post_init__(self) -> None:
        self.env = environment(self.cache or self.folder / "cache")
        self.reference = self.workdir("reference", "--checkpoint.keep", "1000000")
        if code := self.reference.run_to_end():
            raise SystemExit(f"the undisturbed run ended with {code}: {self.reference.err}")

    def workdir(self, name: str, *options: str) -> Workdir:
        """The directory `name` of a run with the campaign's options and these."""
        return Workdir(self.folder / name, self.folder, self.env, self.steps, *options)

    def check(self, good: bool, what: str) -> None:
        """Records and prints the message `what` unless `good`."""
        if not good:
            self.wrong.append(what)
            print(f"WRONG: {what}", flush=True)

    def count(self, what: str) -> None:
        """Counts one fault that was tried."""
        self.done[what] += 1

    def attempt(self, part: Callable[..., None], *args: Any) -> None:
        """Calls a part of the campaign; a run that hangs in it counts as wrong."""
        since = time.perf_counter()
        try:
            part(self, *args)
        except subprocess.SubprocessError as error:
            self.check(False, f"{part.__name__}: {error}")
        print(f"{part.__name__}: {time.perf_counter() - since:.0f} s", flush=True)

    def check_checkpoints(self, run: Workdir, seen: int, what: str) -> int:
        """Compares all checkpoints with the reference's after the fault `what`.

        Args:
          run: the run.
          seen: step of the newest undamaged checkpoint before the fault.
          what: the fault, for messages.

        Returns:
          The step of the newest undamaged checkpoint; 0: there is none.
        """
        undamaged = []
        for step in run.steps():
            if same_checkpoint(run.checkpoint(step), self.reference.checkpoint(step)):
                undamaged.append(step)
            else:
                self.check(step in self.damaged_steps, f"{what}: checkpoint {step} is not right")
            self.done["checkpoints held against the reference"] += 1
        newest = max(undamaged, default=0)
        self.check(newest >= seen, f"{what}: newest undamaged step {newest}, before it {seen}")
        return newest

    def check_restart(self, run: Workdir, expected: int) -> None:
        """The last process must resume at step `expected`, and quarantine damaged checkpoints."""
        resumed = re.search(
            r"resumes after step ([\d,]+)|all ([\d,]+) steps are done", run.out.read_text()
        )
        if not resumed:
            self.check(not (expected and run.started), f"resumed nowhere, not at {expected}")
            return
        step = int((resumed[1] or resumed[2]).replace(",", ""))
        self.check(step == expected, f"resumed at {step}, not at {expected}")
        self.done["resumes at the newest whole checkpoint"] += step == expected
        for damaged in self.damaged_steps:
            named = f"warning: checkpoint {damaged} is damaged" in run.err.read_text()
            self.check(named, f"did not report that checkpoint {damaged} is damaged")
            quarantined = (run.checkpoints / f"{damaged}.corrupt").is_dir()
            self.check(quarantined, f"did not quarantine checkpoint {damaged}")
            self.damaged["fell back to the one before, and said so"] += named
        self.damaged_steps.clear()

    def check_end(self, run: Workdir) -> None:
        """A run that ended must have the state, metrics and kept checkpoints that are expected."""
        last, rows = self.steps, run.rows()
        good = same_checkpoint(run.checkpoint(last), self.reference.checkpoint(last))
        self.check(good, f"{run.path.name}: the final state is not the reference's")
        self.check(rows == self.reference.rows(), f"{run.path.name}: metrics.jsonl differs")
        evals = [row for row in rows if row["split"] == "eval"]
        best = max(evals, key=lambda row: (row["ema_top1"], row["step"]))["step"]
        kept = sorted({last - SAVE, last, best})
        self.check(run.steps() == kept, f"{run.path.name}: keeps {run.steps()}, not {kept}")
        report = run.path / "report" / "index.html"
        self.check(report.is_file(), f"{run.path.name}: no report")
        self.done["runs to the end"] += 1
        self.damaged_steps.clear()
