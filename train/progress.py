"""What a person sees of a run: a live bar in a terminal, plain lines anywhere else."""

import sys
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from train.names import utf8

Row = dict[str, Any]


def warn(text: str) -> None:
    """A line on stderr, for what must be seen though nobody asked."""
    print(f"warning: {utf8(text)}", file=sys.stderr, flush=True)


class Display:
    """Shows steps, rows of metrics and messages on stdout; `quiet` shows nothing."""

    def __init__(self, total_steps: int, quiet: bool = False) -> None:
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._total = total_steps
        self._live: Live | None = None
        if self._console.is_terminal and not quiet:
            remaining = (TextColumn("ETA"), TimeRemainingColumn())
            self._bar = Progress(MofNCompleteColumn(), BarColumn(), *remaining)
            self._task = self._bar.add_task("", total=total_steps)
            self._status = Text("compiling the first step")
            self._live = Live(Group(self._bar, self._status), console=self._console)
            self._live.start()
        else:
            self.say("compiling the first step")

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(utf8(text), markup=False, emoji=False)

    def advance(self, step: int) -> None:
        """The bar's position; costs nothing on the device."""
        if self._live:
            self._bar.update(self._task, completed=step)

    def row(self, row: Row) -> None:
        """A row of metrics.jsonl: training rows stand under the bar, evaluations stay above it."""
        line = describe(row)
        if self._live and row["split"] == "train":
            self._status.plain = line
        else:
            self.say(f"step {row['step']}/{self._total}  {line}")

    def close(self) -> None:
        """Takes the bar down; what it showed stays."""
        if self._live:
            self._live.stop()


def describe(row: Row) -> str:
    """A row in a line.

    >>> describe({"split": "eval", "epoch": 2.0, "loss": 0.5, "top1": 0.875, "examples": 80})
    'epoch 2.00  eval loss 0.5000  top-1 87.50 %  of 80'
    """
    parts = [f"epoch {row['epoch']:.2f}"]
    name = "" if row["split"] == "train" else f"{row['split']} "
    parts.append(f"{name}loss {row['loss']:.4f}  top-1 {row['top1']:.2%}".replace("%", " %"))
    if "ema_top1" in row:
        parts.append(f"EMA top-1 {row['ema_top1']:.2%}".replace("%", " %"))
    if "examples" in row:
        parts.append(f"of {row['examples']}")
    if "lr" in row:
        parts.append(f"lr {row['lr']:.4g}")
    if "images_per_sec" in row:
        parts.append(f"{row['images_per_sec']:.0f} images/s")
        parts.append(f"input wait {row['input_wait']:.0%}".replace("%", " %"))
    if row.get("skipped"):
        parts.append(f"left out {row['skipped']}")
    return "  ".join(parts)
