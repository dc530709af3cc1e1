"""metrics.jsonl: writing and reading its rows."""

import json
import math
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""A line: step, split and numbers."""


def to_line(row: Row) -> str:
    """A row as a line of strict JSON: NaN and infinity become null."""

    def strict(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: strict(value) for name, value in row.items()}) + "\n"


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl in order of step; [] if there is no such file.

    A process that is killed while it writes leaves half a line, at the end of the file or, after a
    resume, in the middle. It is skipped. Of two rows with the same step and split, the last counts.
    """
    return parse_metrics(path)[0]


def parse_metrics(path: Path) -> tuple[list[Row], int]:
    """The rows as from `read_metrics`, and the number of skipped lines."""
    rows: dict[tuple[int, str], Row] = {}
    unreadable = 0
    lines = path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []
    for line in filter(str.strip, lines):
        try:
            row = json.loads(line)
            rows[math.floor(row["step"]), str(row["split"])] = row
        except (ValueError, KeyError, TypeError, OverflowError):
            unreadable += 1
    return sorted(rows.values(), key=lambda row: row["step"]), unreadable
