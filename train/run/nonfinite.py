"""Steps that are not finite: what is reported about them, and anomaly.json."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.data.order import example_indices
from train.printable import utf8
from train.run.metrics import SkippedStep, Window
from train.run.parts import Run


class SkipLog:
    """Reports the skipped steps of a window, and writes them to anomaly.json."""

    def __init__(self, run: Run, workdir: Path, window: Window, *, is_writer: bool) -> None:
        """Steps that are already in `window`, from a checkpoint, count as reported."""
        self._run, self._workdir, self._window = run, workdir, window
        self._is_writer = is_writer
        self._reported = len(window.skipped_steps)

    def report(self, say: Callable[[str], None]) -> None:
        """Reports the steps that were skipped since the last call, one line each."""
        skipped = self._window.skipped_steps
        if len(skipped) == self._reported:
            return
        for step, what, value in skipped[self._reported :]:
            say(
                f"{what} is not finite at step {step} ({value}): the step is skipped, one of at "
                f"most {self._window.limit} (anomaly.json)"
            )
        self._reported = len(skipped)
        self._write()

    def explain(self, found: SkippedStep) -> tuple[str, str]:
        """(reason, advice) for a run that ends with the step `found`; writes anomaly.json."""
        self._write()
        return explain(self._workdir, self._run, found, self._window.limit)

    def _write(self) -> None:
        if self._is_writer:
            with contextlib.suppress(OSError):  # the metrics and checkpoints report a full disk
                write(self._workdir, self._run, self._window.skipped_steps)


def describe(run: Run, found: SkippedStep) -> dict[str, Any]:
    """One entry of anomaly.json.

    Returns:
      `step` (from 1), `what` ("loss", "grad_norm"), `value` ("nan", "inf", "-inf"),
      `learning_rate` (see `rate`), and `examples`: the `index` and `name` in the training split of
      each example in the global batch, in order.
    """
    config, source = run.config, run.splits.train
    indices = example_indices(
        len(source),
        config.seed,
        config.batch_size,
        found.step - 1,
        order=config.data.order,
        repeats=config.augment.repeats,
        balance=run.balance,
    )
    return {
        **found._asdict(),
        "learning_rate": rate(run, found.step),
        "examples": [{"index": int(i), "name": utf8(source.name(int(i)))} for i in indices],
    }


def rate(run: Run, step: int) -> float:
    """The learning rate of a step (from 1): scaled by the batch size, warmed up and scheduled."""
    return float(run.schedule(step - 1))


def write(workdir: Path, run: Run, steps: list[SkippedStep]) -> Path:
    """Writes anomaly.json: the last of `steps`, and under `before` the earlier ones.

    Raises:
      OSError: it cannot be written.
    """
    *before, last = [describe(run, step) for step in steps]
    path = workdir / "anomaly.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(_text({**last, "before": before}), encoding="utf-8")
    os.replace(temporary, path)
    return path


def _text(entry: dict[str, Any]) -> str:
    """JSON with one line per field and per element of a list."""

    def value(x: Any) -> str:
        if isinstance(x, list) and x:
            return "[\n  " + ",\n  ".join(map(json.dumps, x)) + "\n ]"
        return json.dumps(x)

    fields = [f"{json.dumps(name)}: {value(x)}" for name, x in entry.items()]
    return "{\n " + ",\n ".join(fields) + "\n}\n"


def explain(workdir: Path, run: Run, found: SkippedStep, limit: int) -> tuple[str, str]:
    """(reason, advice) for a run that ends with the step `found`.

    Args:
      limit: the number of steps that were skipped before it.
    """
    optim = run.config.optim
    now = f"learning rate {rate(run, found.step):.4g}: --optim.lr {optim.lr:g} scaled to the batch"
    before = f", after {limit} skipped step{'s' * (limit > 1)}" if limit else ""
    return (
        f"({now}, warmed up and scheduled; {found.what}: {found.value}){before}",
        f"{workdir / 'anomaly.json'} names the examples of its batch. A lower --optim.lr, a longer "
        "--optim.warmup or --optim.clip may help, in a new --workdir; --skip_nonfinite N, also in "
        "this --workdir, skips up to N such steps",
    )
