"""anomaly.json: which steps were not finite, and what was in their batches."""

import json
import os
from pathlib import Path
from typing import Any

from train.data.order import example_indices
from train.printable import utf8
from train.run.metrics import SkippedStep
from train.run.parts import Run


def describe(run: Run, found: SkippedStep) -> dict[str, Any]:
    """A step that is not finite.

    Returns:
      `step` (from 1), `what` ("loss", "grad_norm"), `value` ("nan", "inf", "-inf"),
      `learning_rate` (as `rate` has it), and `examples`, the `index` and `name` in the training
      split of each one in the global batch, in its order.
    """
    config, source = run.config, run.splits.train
    order = config.data.order
    indices = example_indices(
        len(source), config.seed, config.batch_size, found.step - 1, order=order
    )
    return {
        **found._asdict(),
        "learning_rate": rate(run, found.step),
        "examples": [{"index": int(i), "name": utf8(source.name(int(i)))} for i in indices],
    }


def rate(run: Run, step: int) -> float:
    """The learning rate of a step: `optim.lr` scaled by the batch size, warmed up and scheduled."""
    return float(run.schedule(step - 1))


def write(workdir: Path, run: Run, steps: list[SkippedStep]) -> Path:
    """Writes anomaly.json: the last of `steps`, and under `before` those before it.

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
    """JSON with one line for each field, and one for each element of a list."""

    def value(x: Any) -> str:
        if isinstance(x, list) and x:
            return "[\n  " + ",\n  ".join(map(json.dumps, x)) + "\n ]"
        return json.dumps(x)

    fields = [f"{json.dumps(name)}: {value(x)}" for name, x in entry.items()]
    return "{\n " + ",\n ".join(fields) + "\n}\n"


def explain(workdir: Path, run: Run, found: SkippedStep, limit: int) -> tuple[str, str]:
    """What a run that ends by such a step says: its value and learning rate, and what may help.

    Args:
      limit: how many such steps were left out before.
    """
    optim = run.config.optim
    now = f"learning rate {rate(run, found.step):.4g}: --optim.lr {optim.lr:g} scaled to the batch"
    before = f", after {limit} such steps were left out" if limit else ""
    return (
        f"({now}, warmed up and scheduled; {found.what}: {found.value}){before}",
        f"{workdir / 'anomaly.json'} names the examples of its batch. A lower --optim.lr, a longer "
        "--optim.warmup or --optim.clip may help, in a new --workdir; --skip_nonfinite N, in this "
        "one too, leaves out up to N such steps",
    )
