"""What a training logs: the metrics of its steps, skipped steps, unreadable images, speed."""

from pathlib import Path

from train.checkpoint.reader import Progress
from train.distributed.processes import Processes
from train.learn.gradients import Sums
from train.report.metrics_file import Row
from train.run.dispatch import Work
from train.run.evaluate import Evaluation, as_row
from train.run.metrics import MetricsLog, NoLog, NonFinite, Window
from train.run.nonfinite import SkipLog
from train.run.parts import Run
from train.run.progress import Display
from train.run.throughput import Clock
from train.run.unreadable import Unreadable


class TrainingLog:
    """Collects sums of the steps, and writes rows to metrics.jsonl and to the display.

    Attributes:
      clock: measures images per second.
      evaluations: the rows of all evaluations, in order.
    """

    def __init__(
        self,
        run: Run,
        workdir: Path,
        display: Display,
        processes: Processes,
        *,
        step: int,
        progress: Progress | None,
    ) -> None:
        """Drops the rows of metrics.jsonl after `step`.

        Args:
          step: the number of steps done.
          progress: from the checkpoint of `step`; None: a new run.
        """
        found: Progress = progress or {"window": {}, "bad": [], "left_out": []}
        self.clock = Clock()
        self._run, self._display, self._processes = run, display, processes
        self._window = Window(
            found["window"],
            limit=run.config.skip_nonfinite,
            skipped_steps=found.get("left_out", ()),
        )
        self._unreadable = Unreadable(found["bad"])
        is_writer = processes.is_writer
        self._skips = SkipLog(run, workdir, self._window, is_writer=is_writer)
        self._file = MetricsLog(workdir, step) if is_writer else NoLog(workdir, step)
        self.evaluations = self._file.evaluations

    def add(self, step: int, sums: Sums, work: Work) -> None:
        """Takes the sums of a dispatch, whose first step is `step`."""
        self._window.add(step, sums, work.steps)
        self._unreadable.add(work.host)
        self.clock.steps += work.steps

    @property
    def finished(self) -> int:
        """The last step that is known to be finished on the devices."""
        return self._window.finished

    def has_evaluation(self, step: int) -> bool:
        return any(row["step"] == step for row in self.evaluations)

    def log_training(self, step: int) -> None:
        """Writes the means since the last row, unless all of these steps were skipped.

        Raises:
          NonFinite: more steps than `skip_nonfinite` are not finite.
        """
        means = self._window.close()
        self._skips.report(self._display.say)
        if not means:
            return
        lr, speed = float(self._run.schedule(step - 1)), self.clock.lap(self._run.config.batch_size)
        self._unreadable.sync(self._processes)
        row = {
            **self._start_of_row(step, "train"),
            **means,
            "lr": lr,
            **speed,
            **self._unreadable.as_row(),
        }
        if self._window.skipped_steps:
            row["nonfinite"] = len(self._window.skipped_steps)
        self._write(row)

    def log_evaluation(self, step: int, evaluation: Evaluation, seconds: float) -> None:
        """Writes the row of an evaluation that took `seconds`; they do not count as training."""
        self.clock.pause(seconds)
        start = self._start_of_row(step, "eval")
        row = {**start, **as_row(evaluation), "seconds": round(seconds, 3)}
        self.evaluations.append(row)
        self._write(row)

    def log_test(self, row: Row) -> None:
        """Writes the evaluation of the best checkpoint on the test split."""
        prefix = "" if row["weights"] == "raw" else f"{row['weights']}_"
        plain = ("examples", "skipped")
        values = {
            name if name in plain else prefix + name: value
            for name, value in row.items()
            if name not in ("step", "weights", "split")
        }
        self._file.write({**self._start_of_row(row["step"], "test"), **values})

    def _start_of_row(self, step: int, split: str) -> Row:
        epoch = step * self._run.config.batch_size / len(self._run.splits.train)
        return {"step": step, "epoch": epoch, "split": split}

    def _write(self, row: Row) -> None:
        self._file.write(row)
        self._display.row(row)

    def progress(self) -> Progress:
        """What a checkpoint keeps, so that a resumed run writes the same rows.

        Raises:
          NonFinite: more steps than `skip_nonfinite` are not finite.
        """
        sums = self._window.fetch()
        self._skips.report(self._display.say)
        self._unreadable.sync(self._processes)
        indices = sorted(self._unreadable.indices)
        return {"window": sums, "bad": indices, "left_out": self._window.skipped_steps}

    def explain(self, error: NonFinite) -> tuple[str, str]:
        """(reason, advice) for a run that ends with `error`."""
        return self._skips.explain(error.found)

    def describe_unreadable(self) -> str | None:
        """A line about unreadable images for the end of the run; None: there are none."""
        return self._unreadable.describe(self._run.splits.train)

    def close(self) -> None:
        self._file.close()
