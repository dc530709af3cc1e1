"""anomaly.json: which steps were not finite, and what was in their batches."""

import json
import os
from pathlib import Path
from typing import Any

from train.data.pipeline import asked
from train.run import Run


def describe(run: Run, step: int, value: str) -> dict[str, Any]:
    """A step whose `value` ("loss", "grad_norm") is not finite.

    Returns:
      `step` (from 1), `value`, `learning_rate`, and `examples`, the `index` and `name` in the
      training split of each one in the global batch, in its order.
    """
    config, source = run.config, run.splits.train
    indices = asked(len(source), config.seed, config.batch_size, step - 1)
    return {
        "step": step,
        "value": value,
        "learning_rate": float(run.schedule(step - 1)),
        "examples": [{"index": int(i), "name": source.name(int(i))} for i in indices],
    }


def write(workdir: Path, run: Run, steps: list[tuple[int, str]]) -> Path:
    """Writes anomaly.json: the last of `steps`, and under `before` those before it.

    Raises:
      OSError: it cannot be written.
    """
    *before, last = [describe(run, step, value) for step, value in steps]
    path = workdir / "anomaly.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**last, "before": before}, indent=1) + "\n")
    os.replace(temporary, path)
    return path
