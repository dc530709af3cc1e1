"""The learning curves of a run, as SVG in the colours and the font of the page."""

import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from train.learn.tasks import Metric, Task
from train.report.markup import text
from train.report.metrics_file import Row

MARKED_POINTS = 40  # the most evaluations that are marked one by one on their curve

STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text, in the font of the page
}
LEARNING_RATE = Metric("lr", "learning rate")
# Hues of Okabe and Ito, which colour-blind readers can tell apart. Their contrast is more than 3 on
# the light and on the dark page.
LINES: dict[str, dict[str, Any]] = {
    "train": {"color": "#1f88cc", "linewidth": 1},
    "eval": {"color": "#d55e00", "linewidth": 1.6},
    "EMA": {"color": "#009e73", "linewidth": 1.6, "linestyle": "--"},
}


def column(rows: Iterable[Row], field: str) -> np.ndarray:
    """One field of each row; NaN where it is missing or cannot be drawn (null, infinite)."""
    values = (row.get(field) for row in rows)
    return np.array(
        [v if isinstance(v, int | float) and abs(v) < 1e300 else math.nan for v in values], float
    )


def finite(rows: Iterable[Row], field: str) -> list[float]:
    return [v for v in column(rows, field).tolist() if v == v]


def curves(train: list[Row], evals: list[Row], task: Task) -> str:
    """Loss, headline metric and learning rate by epoch, or by step if a row has no epoch."""
    if not train + evals:
        return "<p>No metrics yet.</p>"
    by = "step" if np.isnan(column(train + evals, "epoch")).any() else "epoch"
    figures = []
    for metric in (task.loss_metric, task.headline, LEARNING_RATE):
        field = metric.name
        sources = {"train": (train, field), "eval": (evals, field), "EMA": (evals, f"ema_{field}")}
        curves = {
            name: (column(rows, by), metric.scale * column(rows, y))
            for name, (rows, y) in sources.items()
            if finite(rows, y)
        }
        title = metric.axis
        drawn = (
            _chart(title, f"{by}s".title(), curves) if curves else text(f"{title}: no values yet.")
        )
        figures.append(f"<figure>{drawn}</figure>")
    return f'<div class="charts">\n{"".join(figures)}\n</div>'


def _chart(y_title: str, x_title: str, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """One set of axes as an SVG element; NaN is a gap, and a point between gaps is marked."""
    import matplotlib.style  # here, so that importing this module stays cheap
    from matplotlib.figure import Figure

    file = io.StringIO()
    # The salt makes the identifiers differ from those of the other charts of the page.
    with matplotlib.style.context(["default", STYLE | {"svg.hashsalt": y_title}]):
        figure = Figure(figsize=(4, 3), layout="constrained")
        axes = figure.subplots()
        for name, (x, y) in curves.items():
            gap = np.isnan(np.pad(y, 1, constant_values=np.nan))
            alone = gap[:-2] & ~gap[1:-1] & gap[2:]
            marked = alone | (name != "train" and len(y) <= MARKED_POINTS)
            marker = {"marker": "o", "markersize": 3, "markevery": marked} if marked.any() else {}
            axes.plot(x, y, label=name, gid=name, clip_on=False, **LINES[name], **marker)
        axes.set(xlabel=x_title, ylabel=y_title)
        axes.grid(clip_on=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(LINES))
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter("{x:,.10g}")
        axes.yaxis.set_major_formatter("{x:,.10g}")
        figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    # Removed: prolog, namespaces, metadata, and the ids of groups, which repeat in each chart.
    svg = svg[svg.index('<g id="figure_1">') :].replace("<g id=", "<g class=")
    start = (
        f'<svg viewBox="0 0 288 216" role="img" aria-label="{text(y_title)} by {text(x_title)}">'
    )
    return start + svg.replace("#000000", "currentColor")
