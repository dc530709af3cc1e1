"""The progress of a run on stdout: a live bar in a terminal, plain lines anywhere else."""

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn
from rich.progress import Task as BarTask
from rich.text import Text

from train.config import DataConfig
from train.learn.tasks import Task
from train.printable import utf8
from train.report.metrics_file import Row
from train.run.eta import Remaining


class _Eta(ProgressColumn):
    """The remaining time, estimated from finished steps.

    rich's own column counts calls of `update`, which come in bursts.
    """

    def __init__(self, remaining: Remaining) -> None:
        super().__init__()
        self._remaining = remaining

    def render(self, task: BarTask) -> Text:
        return Text(f"ETA {self._remaining}")


class Display:
    """Prints steps, rows of metrics and messages to stdout; `quiet` prints nothing."""

    def __init__(self, total_steps: int, task: Task, quiet: bool = False) -> None:
        self.quiet, self._task = quiet, task
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._total = total_steps
        self._remaining = Remaining(total_steps)
        self._live: Live | None = None
        self._doing, self._began = Text(""), ""
        if self._console.is_terminal and not quiet:
            self._bar = Progress(MofNCompleteColumn(), BarColumn(), _Eta(self._remaining))
            self._bar_task = self._bar.add_task("", total=total_steps)
            self._live = Live(Group(self._bar, self._doing), console=self._console)

    @property
    def is_live(self) -> bool:
        """Whether there is a bar in a terminal; without one, each `begin` prints a line."""
        return self._live is not None

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(utf8(text), markup=False, emoji=False)

    def begin(self, text: str, step: int) -> None:
        """Announces work that takes a while, after this step. Without a terminal: prints a line.

        In a terminal the text is shown under the bar until the next step or row. The first call
        shows the bar.
        """
        if not self._live:
            self.say(text)
            return
        self._live.start()
        self._doing.plain = self._began = text
        self._bar.update(self._bar_task, completed=step)

    def advance(self, step: int) -> None:
        """The steps up to this one are finished. Does not wait for the device."""
        self._remaining.finished(step)
        if self._live and step > self._bar.tasks[0].completed:
            self._bar.update(self._bar_task, completed=step)
            if self._doing.plain == self._began:
                self._doing.plain = ""

    def row(self, row: Row) -> None:
        """A row of metrics.jsonl: a training row is shown under the bar, an evaluation above it."""
        self.advance(row["step"])
        line = describe(row, self._task)
        if row["split"] == "eval":
            self._remaining.pause(row["step"], row.get("seconds", 0.0))
        if self._live and row["split"] == "train":
            self._doing.plain = line
            return
        known = row["split"] == "train" and self._remaining.seconds() is not None
        eta = f"  ETA {self._remaining}" if known else ""
        self.say(f"step {row['step']:,}/{self._total:,}  {line}{eta}")

    def close(self) -> None:
        """Stops the bar; the printed lines stay."""
        if self._live:
            self._doing.plain = ""
            self._live.stop()


def describe_best(row: Row, task: Task, data: DataConfig) -> str:
    """The line about the best checkpoint, from its evaluation, at the end of a run."""
    metric = task.headline
    which = f"step {row['step']}" + (" (averaged weights)" if row["weights"] == "ema" else "")
    if batches := row.get("precise_bn"):
        which += f", with BatchNorm statistics of {batches} batches"
    images = "evaluation images"
    if row.get("split") == "test":
        which += f", chosen on the split {data.eval_split!r}"
        images = f"images of the split {data.test_split!r}"
    return (
        f"best checkpoint: {which}, {metric.full_name} {metric.text(row[metric.name])} and "
        f"loss {row['loss']:.4f} on {row['examples']:,} {images}"
    )


def describe(row: Row, task: Task) -> str:
    """A row in a line, with the loss and the headline metric of the task.

    >>> from train.learn.tasks import Classify
    >>> row = {"split": "eval", "epoch": 2.0, "loss": 0.5, "top1": 0.875, "examples": 80}
    >>> describe(row, Classify())
    'epoch 2.00  eval loss 0.5000  top-1 87.50 %  on 80 images'
    """
    metric = task.headline
    parts = [f"epoch {row['epoch']:.2f}"]
    name = "" if row["split"] == "train" else f"{row['split']} "
    parts.append(f"{name}loss {row['loss']:.4f}")
    if metric.name in row:  # a metric of a whole split is not in rows of training
        parts.append(f"{metric.label} {metric.text(row[metric.name])}")
    if (averaged := f"ema_{metric.name}") in row:
        parts.append(f"EMA {metric.label} {metric.text(row[averaged])}")
    if "examples" in row:
        parts.append(f"on {row['examples']:,} images")
    if "lr" in row:
        parts.append(f"lr {row['lr']:.4g}")
    if "images_per_sec" in row:
        parts.append(f"{row['images_per_sec']:,.0f} images/s")
        parts.append(f"input wait {row['input_wait']:.0%}".replace("%", " %"))
    if row.get("skipped"):
        parts.append(f"skipped {row['skipped']:,}")
    return "  ".join(parts)
