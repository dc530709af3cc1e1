"""The metrics of a run: sums over a logging window, and rows in metrics.jsonl and TensorBoard."""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from train.config import RunError
from train.learn.gradients import Sums
from train.report.metrics_file import Row, read_metrics, to_line


class SkippedStep(NamedTuple):
    """A training step whose loss or gradient is not finite."""

    step: int
    what: str
    """loss or grad_norm; the loss, if neither is finite."""
    value: str = "not finite"
    """nan, inf or -inf; unknown in old checkpoints."""


AHEAD = 4
"""Dispatches that may be queued on the devices."""


class Window:
    """Sums of the training steps since the last logged row.

    They stay on the device until they are fetched, so only logging waits for the newest step.
    A checkpoint contains `totals` and `skipped_steps`, so that a resumed run logs the same rows.
    """

    def __init__(
        self,
        totals: dict[str, float] | None = None,
        *,
        limit: int = 0,
        skipped_steps: Sequence[Sequence[Any]] = (),
    ) -> None:
        """`limit`: the maximum number of steps of the run that may be skipped as not finite."""
        self.totals: dict[str, float] = dict(totals or {})
        self.limit = limit
        self.skipped_steps = [SkippedStep(*entry) for entry in skipped_steps]
        """The skipped steps since the start of the run."""
        self.finished = 0
        """The last step that the devices are known to have finished."""
        self._pending: list[tuple[int, int, Sums]] = []

    def add(self, step: int, sums: Sums, steps: int = 1) -> None:
        """Adds the sums of one step, or of N `steps` from `step` on as arrays [N].

        Waits for the sums of the call `AHEAD` calls ago. A few queued calls hide the time of a
        dispatch; a limit bounds the memory of the batches on the devices. It also prevents a
        deadlock of XLA's CPU devices: with more than 32 waiting programs, no thread is left for
        the program that the collective of another one waits for.
        """
        self._pending.append((step, steps, sums))
        if len(self._pending) > AHEAD:
            first, count, done = self._pending[-1 - AHEAD]
            jax.block_until_ready(done)
            self.finished = first + count - 1

    def _fetched(self) -> Iterator[tuple[int, Sums]]:
        for first, steps, sums in jax.device_get(self._pending):
            for i in range(steps):
                yield first + i, {name: np.ravel(value)[i] for name, value in sums.items()}

    def fetch(self, *, finite: bool = True) -> dict[str, float]:
        """Waits for the steps so far and returns `totals`.

        Raises:
          NonFinite: with `finite`, more than `limit` steps have a loss or a gradient that is not
            finite.
        """
        for step, sums in self._fetched():
            if sums.pop("overflow", 0):  # of float16: not an error, and not a step of the means
                self.totals["overflows"] = self.totals.get("overflows", 0) + 1
                continue
            names = sorted(sums, key=lambda name: name != "loss")  # its cause comes first
            broken = [name for name in names if not math.isfinite(sums[name])]
            if finite and broken:
                found = SkippedStep(step, broken[0], str(float(sums[broken[0]])))
                self.skipped_steps.append(found)
                if len(self.skipped_steps) > self.limit:
                    raise NonFinite(found)
                continue
            for name, value in sums.items():
                self.totals[name] = self.totals.get(name, 0.0) + float(value)
            self.totals["steps"] = self.totals.get("steps", 0) + 1
        if self._pending:
            first, count, _ = self._pending[-1]
            self.finished = first + count - 1
        self._pending = []
        return dict(self.totals)  # a checkpoint writes it while the next steps are added

    def close(self) -> Row:
        """Returns the means of the window and empties it; {} if none of its steps was finite."""
        row = means(self.fetch())
        self.totals = {}
        return row


class NonFinite(RunError):
    """Training produced a value that is not finite."""

    def __init__(self, found: SkippedStep) -> None:
        super().__init__(f"{found.what} is not finite at step {found.step}")
        self.found = found


def means(totals: dict[str, float]) -> Row:
    """Sums over examples -> means; `grad_norm`, `penalty` and `loss_scale` are means over steps.

    {} if all steps were skipped.
    """
    per_step = {"grad_norm", "penalty", "loss_scale"}
    found = {
        name: value / (totals["steps"] if name in per_step else max(totals["count"], 1))
        for name, value in totals.items()
        if name not in ("count", "steps", "overflows")
    }
    overflows = totals.get("overflows")
    return {**found, "overflows": overflows} if found and overflows else found


class MetricsLog:
    """Appends rows to metrics.jsonl and to TensorBoard's event file."""

    def __init__(self, workdir: Path, last_step: int) -> None:
        """Drops the rows after `last_step`, the step that the run resumes from."""
        # The writer that SummaryWriter uses: SummaryWriter has a thread and hangs if the thread
        # dies of a full disk.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        self.path = workdir / "metrics.jsonl"
        board = workdir / "tensorboard"
        with self._named_errors():
            keep = [row for row in read_metrics(self.path) if row["step"] <= last_step]
            self.evaluations = [row for row in keep if row["split"] == "eval"]
            replacement = self.path.with_suffix(".tmp")
            replacement.write_text("".join(map(to_line, keep)), encoding="utf-8")
            os.replace(replacement, self.path)
            self._file = self.path.open("a", encoding="utf-8")
            board.mkdir(exist_ok=True)
            self._board = EventsWriter(str(board / "events"))
            # TensorBoard drops what an earlier process logged after this step.
            start = SessionLog(status=SessionLog.START)
            self._add_event(last_step + 1, session_log=start)

    def write(self, row: Row) -> None:
        """Writes a row. It is on disk on return, so before any later checkpoint.

        Raises:
          RunError: it could not be written.
        """
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=f"{row['split']}/{name}", simple_value=value)
            for name, value in row.items()
            if value is not None and name not in ("step", "split")
        ]
        with self._named_errors():
            self._file.write(to_line(row))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._add_event(row["step"], summary=Summary(value=values))

    def _add_event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._board.write_event(Event(step=step, wall_time=time.time(), **content))
        self._board.flush()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"metrics could not be written beside {self.path}: {error.strerror}. "
                "The same command resumes from the newest checkpoint"
            ) from error

    def close(self) -> None:
        for file in (self._file, self._board):
            with contextlib.suppress(OSError):  # a full disk was already reported
                file.close()


class NoLog(MetricsLog):
    """The log of a process that does not write; it still knows the evaluations."""

    def __init__(self, workdir: Path, last_step: int) -> None:
        rows = read_metrics(workdir / "metrics.jsonl")
        keep = [row for row in rows if row["step"] <= last_step]
        self.evaluations = [row for row in keep if row["split"] == "eval"]

    def write(self, row: Row) -> None:
        pass

    def close(self) -> None:
        pass
