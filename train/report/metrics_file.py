"""metrics.jsonl: its rows, and how they are written and read."""

import json
import math
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""A line: step, split and numbers."""


def to_line(row: Row) -> str:
    """A row as a line of strict JSON: what is not finite becomes null."""

    def strict(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: strict(value) for name, value in row.items()}) + "\n"


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl in order of step; none if there is no such file.

    A process killed while writing leaves half a line, at the end or, once resumed, in the middle:
    it is left out. Where a row stands twice, the last one counts.
    """
    return parse_metrics(path)[0]


def parse_metrics(path: Path) -> tuple[list[Row], int]:
    """What `read_metrics` returns, and the number of lines that are not a row."""
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
