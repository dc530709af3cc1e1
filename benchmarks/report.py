"""Tables and a plot of benchmark results.

usage: resnet-jax bench report [FILE.jsonl ...] [--only step memory ...] [--plot FILE.svg]

Prints a Markdown table for each benchmark, from the given files or all results of this checkout. A
figure is a median with its range. Of rows with the same command and device, the last one is used.
The plot shows ours / peer of each `step` result, with its range.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import Row
from train.cli.arguments import parse
from train.config import ConfigError

RESULTS = Path(__file__).parent / "results"
_HIDDEN = {
    *("benchmark", "case", "command", "host", "host_cores", "python", "commit", "versions"),
    *("flags", "load_before", "file", "network", "batch_size", "image_size", "loss", "xla_flags"),
}


# The parts of these results that are shown; None: all.
_PARTS: dict[str, tuple[str, ...] | None] = {
    "images_per_second_per_core": None,
    "ours_over": None,
    "cold_seconds": ("trace", "compile", "total"),
    "warm_seconds": ("total",),
}


@dataclass(frozen=True)
class ReportArgs:
    """Options of `bench report`."""

    only: tuple[str, ...] = ()
    """Benchmarks to show: step, memory, program ...; default: all."""
    plot: Path | None = None
    """Write the plot of ours / peer to this file (.svg, .png)."""


def main(args: Sequence[str]) -> None:
    """Prints the tables and draws the plot."""
    cut = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    given = parse("bench report", __doc__ or "", ReportArgs, ReportArgs(), args[cut:])
    files = [Path(name) for name in args[:cut]] or sorted(RESULTS.glob("*.jsonl"))
    rows = read(files)
    kinds = list(dict.fromkeys(row["benchmark"] for row in rows))
    for name in given.only:
        if name not in kinds:
            raise ConfigError(f"only {name!r}: there are results of {', '.join(kinds)}")
    print("\n\n".join(tables([row for row in rows if row["benchmark"] in (given.only or kinds)])))
    if given.plot:
        draw([row for row in rows if row["benchmark"] == "step"], given.plot)


def read(files: Iterable[Path]) -> list[Row]:
    """The rows of these files; of rows with the same command and device, the last.

    Raises:
      ConfigError: a file is missing, or a line is not a result.
    """
    kept: dict[tuple[Any, ...], Row] = {}
    for path in files:
        try:
            lines = path.read_text().splitlines()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                kind = row["benchmark"]
            except (ValueError, TypeError, KeyError):
                raise ConfigError(
                    f"{path}, line {number}: is not a result of a benchmark"
                ) from None
            key = (kind, row.get("command"), row.get("case"), _device(row), row.get("system"))
            kept.pop(key, None)
            kept[key] = {**row, "file": path.name}
    return list(kept.values())


def _device(row: Row) -> str:
    """The device or host of a row."""
    ours = row.get("systems", {}).get("ours", {})
    name = row.get("device") or ours.get("device") or ""
    return str(row.get("host", name) if name in ("cpu", "") else name)


def tables(rows: Sequence[Row]) -> list[str]:
    """A heading and a Markdown table for each benchmark."""
    parts = []
    for kind in dict.fromkeys(row["benchmark"] for row in rows):
        these = [row for row in rows if row["benchmark"] == kind]
        lines = _steps(these) if kind == "step" else _plain(these)
        parts.append("\n".join([f"### {kind}", "", *lines]))
    return parts


def figure(value: Any) -> str:
    """The text of a cell: median and range of a spread, or a number to four digits.

    >>> figure({"median": 168.0, "min": 156.0, "max": 172.0, "n": 5})
    '168 (156 to 172)'
    """
    if isinstance(value, dict):
        low, middle, high = (f"{value[name]:,.4g}" for name in ("min", "median", "max"))
        return f"{middle} ({low} to {high})"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _is_shown(value: Any) -> bool:
    return _is_spread(value) or isinstance(value, str | int | float)


def _is_spread(value: Any) -> bool:
    return isinstance(value, dict) and {"median", "min", "max"} <= set(value)


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(cells)} |" for cells in lines),
    ]


def _steps(rows: Sequence[Row]) -> list[str]:
    """The table of `step`: images/s of all systems, and ours / peer."""
    peers = list(dict.fromkeys(name for row in rows for name in row["ours_over"]))
    lines = []
    for row in rows:
        rates, ratios = row["images_per_second"], row["ours_over"]
        cells = [
            f"{figure(rates[name]['median'])}; **{ratios[name]['median']:.3g}** "
            f"({ratios[name]['min']:.3g} to {ratios[name]['max']:.3g})"
            if name in ratios
            else "-"
            for name in peers
        ]
        ours = figure(rates["ours"])
        mfu = row.get("systems", {}).get("ours", {}).get("mfu")
        what = f"{row['case']} {row['precision']}"
        lines.append([what, _device(row), ours, f"{mfu:.1%}" if mfu else "-", *cells, _source(row)])
    named = [f"{name}; **ours / it**" for name in peers]
    return _markdown(["case", "on", "ours, images/s", "MFU", *named, "command, results"], lines)


def _source(row: Row) -> str:
    command = f"`{row['command']}`, " if "command" in row else ""
    return f"{command}{row['file']}"


def _plain(rows: Sequence[Row]) -> list[str]:
    """The table of another benchmark; a row with several systems has a line for each."""
    flat = []
    for row in rows:
        shared = {name: value for name, value in row.items() if name not in _HIDDEN}
        for name in _PARTS:
            if name in shared and not _is_spread(shared[name]):
                parts = shared.pop(name)
                shared |= {f"{name}: {part}": parts[part] for part in _PARTS[name] or parts}
        systems = shared.pop("systems", None)
        each = [{**shared, "system": name, **found} for name, found in (systems or {}).items()]
        flat += [(row, found) for found in each or [shared]]
    columns = list(
        dict.fromkeys(
            name
            for _, found in flat
            for name, value in found.items()
            if _is_shown(value) and name not in (*_HIDDEN, "device")
        )
    )
    lines = []
    for row, found in flat:
        cells = [figure(found[name]) if _is_shown(found.get(name)) else "-" for name in columns]
        what = str(row.get("case", row.get("recipe", "")))
        lines.append([what, _device(row), *cells, _source(row)])
    header = ["case", "on", *(name.replace("_", " ") for name in columns), "command, results"]
    result = _markdown(header, lines)
    for row in rows:
        if "top" in row:
            top = [[k["name"], f"{k['ms']:.3f}", f"{k['share']:.1%}"] for k in row["top"]]
            result += ["", *_markdown([f"kernels of {row['case']}", "ms", "share"], top)]
    return result


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws ours / peer of each `step` row as a bar with its range, on a logarithmic axis.

    Raises:
      ConfigError: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise ConfigError("plot: needs matplotlib: pip install matplotlib") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    bars = [
        (f"{row['case']} {row['precision']}\n{_device(row)}: {name}", ratio)
        for row in rows
        for name, ratio in row["ours_over"].items()
    ]
    if not bars:
        raise ConfigError("plot: there is no `step` result with a peer")
    figure, axes = pyplot.subplots(figsize=(8, 0.8 + 0.5 * len(bars)), layout="constrained")
    middle = [ratio["median"] for _, ratio in bars]
    low = [ratio["median"] - ratio["min"] for _, ratio in bars]
    high = [ratio["max"] - ratio["median"] for _, ratio in bars]
    axes.barh(range(len(bars)), middle, xerr=[low, high], color="#4477aa", capsize=3)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("images/s: ours / peer (median and range over rounds)")
    figure.savefig(path)
    pyplot.close(figure)
