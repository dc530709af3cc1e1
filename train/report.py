"""A run directory as one page: `report/index.html`, readable offline and self-contained.

The frame is `report.html`; each function here fills one place of it, from data to an HTML string.
"""

import base64
import dataclasses
import html
import io
import json
import math
import os
import statistics
import string
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]  # one line of metrics.jsonl

MATRIX_CLASSES = 50  # the most classes a confusion matrix, or an unfolded table, is readable for
COUNTED_CLASSES = 20  # the most classes whose counts fit in the cells
CONFUSIONS = 30
MISTAKES = 24
MARKED_POINTS = 40  # the most evaluations that are marked one by one on their curve

INK = "#012345"  # drawn in this, a chart takes the text colour of the page
STYLE = dict.fromkeys(
    ("axes.edgecolor", "axes.labelcolor", "grid.color", "text.color", "xtick.color", "ytick.color"),
    INK,
) | {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.2,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text, in the font of the page
}
# Okabe and Ito's colours can be told apart by the colour-blind; these three have a contrast of at
# least 3 with the light and with the dark page.
LINES: dict[str, dict[str, Any]] = {
    "train": {"color": "#0072b2", "linewidth": 1},
    "eval": {"color": "#d55e00", "linewidth": 1.6},
    "EMA": {"color": "#009e73", "linewidth": 1.6, "linestyle": "--"},
}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What the evaluated model said of each example of a split."""

    label: np.ndarray  # int [N]
    prediction: np.ndarray  # int [N]
    confidence: np.ndarray  # float [N]: softmax probability of `prediction`
    loss: np.ndarray  # float [N]
    name: list[str]  # [N] file name or "test[17]"


def write_report(
    workdir: Path,
    predictions: Predictions,
    class_names: Sequence[str],
    picture: Callable[[int], np.ndarray],
) -> Path:
    """Writes `workdir/report/index.html` from the run's metrics, config and predictions.

    Args:
        workdir: a run directory; `metrics.jsonl` and `config.json` may be missing or unfinished.
        predictions: of one whole split, by the model the report is about.
        class_names: [K], indexed by label.
        picture: example index -> uint8 [H, W, 1 or 3] as the network sees it; only called for the
            mistakes that are shown.

    Returns:
        The path of the page, which appears whole or not at all.

    Raises:
        ValueError: the predictions differ in length, or have a class without a name.
    """
    _check(predictions, len(class_names))
    config_file = workdir / "config.json"
    config = json.loads(config_file.read_text("utf-8")) if config_file.exists() else {}
    rows, unreadable = _parse(workdir / "metrics.jsonl")
    train, evals = ([r for r in rows if r["split"] == split] for split in ("train", "eval"))
    fields = ("recipe", "model.name", "data.name")
    title = " / ".join(str(v) for f in fields if (v := _get(config, f))) or workdir.resolve().name
    frame = resources.files(__package__).joinpath("report.html").read_text("utf-8")
    page = string.Template(frame).substitute(
        title=_text(title),
        cards=_cards(config, train, evals, predictions),
        curves=_curves(train, evals, unreadable),
        confusions=_confusions(predictions, class_names),
        classes=_classes(predictions, class_names),
        mistakes=_mistakes(predictions, class_names, picture),
        config=_nested(config) if config else "<p>No config.json.</p>",
    )
    target = workdir / "report" / "index.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".html.tmp")
    # A file name that is not UTF-8 reaches us with surrogates, which cannot be written back.
    partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    os.replace(partial, target)
    return target


def _check(p: Predictions, classes: int) -> None:
    lengths = [len(getattr(p, field.name)) for field in dataclasses.fields(p)]
    if len(set(lengths)) > 1:
        raise ValueError(f"predictions differ in length: {lengths}")
    for what, ids in (("label", p.label), ("prediction", p.prediction)):
        if len(ids) and not 0 <= ids.min() <= ids.max() < classes:
            raise ValueError(f"{what} in {ids.min()}..{ids.max()}, but there are {classes} classes")


def read_metrics(path: Path) -> list[Row]:
    """The rows of a `metrics.jsonl` in order of step; none if there is no such file.

    A process killed while writing leaves half a line, at the end or, once resumed, in the middle:
    it is left out. A resumed run repeats the steps since its checkpoint: the repeat counts.
    """
    return _parse(path)[0]


def _parse(path: Path) -> tuple[list[Row], int]:
    """What `read_metrics` returns, and the number of lines that are not a row."""
    rows: dict[tuple[int, str], Row] = {}
    unreadable = 0
    lines = path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []
    for line in filter(str.strip, lines):
        try:
            row = json.loads(line)
            rows[int(row["step"]), str(row["split"])] = row
        except (ValueError, KeyError, TypeError, OverflowError):
            unreadable += 1
    return [rows[key] for key in sorted(rows)], unreadable


def _column(rows: Iterable[Row], field: str) -> np.ndarray:
    """One field of each row; NaN where it is missing or cannot be drawn (null, infinite)."""
    values = (row.get(field) for row in rows)
    return np.array(
        [v if isinstance(v, int | float) and abs(v) < 1e300 else math.nan for v in values], float
    )


def _finite(rows: Iterable[Row], field: str) -> list[float]:
    return [v for v in _column(rows, field).tolist() if v == v]


def _get(config: Any, path: str) -> Any:
    """`config["model"]["name"]` for "model.name"; None if any part of the way is missing."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _text(value: object) -> str:
    return html.escape(str(value))


def _share(part: float, whole: float = 1) -> str:
    return f"{100 * part / whole:.2f}%" if whole and math.isfinite(part) else "-"


def _number(value: float, form: str = ",.0f") -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _cards(config: Row, train: list[Row], evals: list[Row], p: Predictions) -> str:
    """A card (label, value, note) for each number one asks for first."""
    parameters = _get(config, "parameters") or _get(config, "model.parameters") or ""
    size = f"{parameters:,}" if isinstance(parameters, int) else parameters
    steps, epochs = (max(_finite(train + evals, f), default=math.nan) for f in ("step", "epoch"))
    seconds = _finite(train, "seconds")
    n, right = len(p.label), int((p.label == p.prediction).sum())
    loss = float(np.mean(p.loss, dtype=np.float64)) if n else math.nan
    # Medians, because the first interval of a run contains its compilation.
    speed, wait = (
        statistics.median(_finite(train, f) or [math.nan]) for f in ("images_per_sec", "input_wait")
    )
    cards = [
        ("Final top-1", *_final(evals, "top1", _share)),
        ("Final top-5", *_final(evals, "top5", _share)),
        ("Final loss", *_final(evals, "loss", lambda loss: _number(loss, ".4g"))),
        ("Best top-1", *_best(evals)),
        # The page's other numbers are these predictions', which may be of another checkpoint.
        ("Examples evaluated", f"{n:,}", f"top-1 {_share(right, n)}, loss {_number(loss, '.4g')}"),
        ("Steps", _number(steps), f"{epochs:.4g} epochs" if epochs == epochs else ""),
        ("Training time", _duration(sum(seconds)) if seconds else "-", ""),
        ("Images per second", _number(speed), "median"),
        ("Waiting for input", _share(wait), "of the time, median"),
        ("Model", _get(config, "model.name") or "-", f"{size} parameters" if size else ""),
    ]
    return "\n".join(
        f"<div><dt>{label}</dt><dd>{_text(value)}</dd><dd>{_text(note)}</dd></div>"
        for label, value, note in cards
    )


def _final(evals: list[Row], field: str, form: Callable[[float], str]) -> tuple[str, str]:
    plain, ema = (_column(evals[-1:] or [{}], f).item() for f in (field, f"ema_{field}"))
    return form(plain), f"EMA {form(ema)}" if ema == ema else ""


def _best(evals: list[Row]) -> tuple[str, str]:
    """The best top-1 of the weights or of their EMA, and the first step that had it."""
    found = [
        (top1, f"step {_number(row['step'])}{note}")
        for field, note in (("top1", ""), ("ema_top1", ", EMA"))
        for row in evals
        for top1 in _finite([row], field)
    ]
    top1, note = max(found, key=lambda pair: pair[0], default=(math.nan, ""))
    return _share(top1), note


def _curves(train: list[Row], evals: list[Row], unreadable: int) -> str:
    """Loss, error and learning rate against epochs, or steps where a row has no epoch."""
    by = "step" if np.isnan(_column(train + evals, "epoch")).any() else "epoch"
    figures = []
    for title, field in (
        ("Loss (nats per example)", "loss"),
        ("Top-1 error (%)", "top1"),
        ("Learning rate", "lr"),
    ):
        curves = {}
        for name, rows, y_field in (
            ("train", train, field),
            ("eval", evals, field),
            ("EMA", evals, f"ema_{field}"),
        ):
            y = _column(rows, y_field)
            if not np.isnan(y).all():
                curves[name] = _column(rows, by), 100 - 100 * y if field == "top1" else y
        drawn = _chart(title, f"{by}s".title(), curves) if curves else f"{title}: no values yet."
        figures.append(f"<figure>{drawn}</figure>")
    body = f'<div class="charts">{"".join(figures)}</div>' if train or evals else "No metrics yet."
    said = f"<p>Unreadable lines of metrics.jsonl, left out: {unreadable}.</p>"
    return body + (said if unreadable else "")


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
            marked = gap[:-2] & gap[2:] | (name != "train" and len(y) <= MARKED_POINTS)
            axes.plot(
                *(x, y, "o-"),
                **LINES[name] | {"label": name, "gid": name, "markevery": marked},
                markersize=3,
                clip_on=False,
            )
        axes.set(xlabel=x_title, ylabel=y_title)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(LINES))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.10g}")
        axes.locator_params(axis="x", nbins=5)
        figure.savefig(file, format="svg", transparent=True)
    drawing = file.getvalue()
    # Without prolog, namespaces and metadata; ids of groups are counted from 1 in every chart.
    drawing = drawing[drawing.index('<g id="figure_1">') :].replace("<g id=", "<g class=")
    start = f'<svg viewBox="0 0 288 216" role="img" aria-label="{y_title} by {x_title}">'
    return start + drawing.replace(INK, "currentColor")


def _pairs(p: Predictions, classes: int) -> list[tuple[int, int, int]]:
    """(true, predicted, count) of each confusion that happened, the most frequent first.

    Not a [K, K] matrix: with the 21,841 classes of ImageNet-21k that would take 4 GB.
    """
    wrong = p.label != p.prediction
    codes = p.label[wrong].astype(np.int64) * classes + p.prediction[wrong]
    pairs, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(*divmod(int(pairs[i]), classes), int(counts[i])) for i in order]


def _table(kind: str, head: Iterable[object], rows: Iterable[str]) -> str:
    titles = "".join(f'<th scope="col"><span>{_text(title)}</span></th>' for title in head)
    return (
        f'<div class="wide"><table class="{kind}">\n<thead><tr>{titles}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _row(*cells: object, bar: float = 0) -> str:
    tds = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
    return f'<tr style="--v:{bar:.4f}">{tds}</tr>'


def _confusions(p: Predictions, names: Sequence[str]) -> str:
    """The confusion matrix, or the most frequent confusions where it would be too large to read."""
    if len(names) <= MATRIX_CLASSES:
        return (
            "<p>Rows are the true class, columns the predicted one. The colour is the square root "
            "of the share of the row, so that rare mistakes can be seen: blue for right, orange "
            "for wrong.</p>" + _matrix(p, names)
        )
    pairs = _pairs(p, len(names))
    examples = np.bincount(p.label, minlength=len(names)).tolist()
    rows = (
        _row(names[true], names[predicted], f"{count:,}", _share(count, examples[true]))
        for true, predicted, count in pairs[:CONFUSIONS]
    )
    head = ("True", "Predicted", "Count", "Share of true class")
    shown = f"<p>The {min(CONFUSIONS, len(pairs))} most frequent of {len(pairs):,}.</p>"
    return shown + _table("confusions", head, rows)


def _matrix(p: Predictions, names: Sequence[str]) -> str:
    k = len(names)
    counts = np.bincount(p.label.astype(np.int64) * k + p.prediction, minlength=k * k)
    rows = []
    for true, row in enumerate(counts.reshape(k, k).tolist()):
        cells = f'<tr><th scope="row">{_text(names[true])}</th>'
        for predicted, count in enumerate(row):
            heat = math.sqrt(count / sum(row)) if count else 0
            # Where white text on the cell comes to have more contrast than dark text.
            kind, turn = ("right", 0.6) if true == predicted else ("wrong", 0.8)
            kind += " hot" if heat > turn else "" if count else " zero"
            hover = f"{names[true]} as {names[predicted]}: {count:,} of {sum(row):,}"
            hover = _text(f"{hover} ({_share(count, sum(row))})")
            shown = count if k <= COUNTED_CLASSES else ""
            cells += f'<td class="{kind}" style="--v:{heat:.3f}" title="{hover}">{shown}</td>'
        rows.append(cells + "</tr>")
    return _table("matrix" if k <= COUNTED_CLASSES else "matrix dense", ["", *names], rows)


def _classes(p: Predictions, names: Sequence[str]) -> str:
    """Accuracy of each class, the worst first and those without examples last."""
    k = len(names)
    examples = np.bincount(p.label, minlength=k)
    correct = np.bincount(p.label[p.label == p.prediction], minlength=k)
    confused: dict[int, str] = {}
    for true, predicted, count in _pairs(p, k):
        confused.setdefault(true, f"{names[predicted]} ({count:,})")
    share = np.where(examples, correct / np.maximum(examples, 1), np.inf)
    rows = [
        _row(
            names[i],
            f"{n:,}",
            f"{right:,}",
            _share(right, n),
            confused.get(i, "-"),
            bar=right / max(n, 1),
        )
        for i in np.argsort(share, kind="stable").tolist()
        for n, right in [(int(examples[i]), int(correct[i]))]
    ]
    head = ("Class", "Examples", "Correct", "Accuracy", "Most often mistaken for")
    body = _table("classes", head, rows[:MATRIX_CLASSES])
    if rest := rows[MATRIX_CLASSES:]:
        body += f"<details><summary>The other {len(rest):,} classes</summary>"
        body += _table("classes", head, rest) + "</details>"
    return body


def _mistakes(p: Predictions, names: Sequence[str], picture: Callable[[int], np.ndarray]) -> str:
    """The wrong predictions of highest loss, as pictures; a NaN loss comes last."""
    n = len(p.label)
    wrong = np.flatnonzero(p.label != p.prediction)
    worst = wrong[np.argsort(-p.loss[wrong], kind="stable")][:MISTAKES].tolist()
    if not worst:
        said = f"No mistakes: all {n:,} predictions are right." if n else "No examples evaluated."
        return f"<p>{said}</p>"
    figures = "\n".join(
        f"<figure>{_image(picture(i))}<figcaption><b>{_text(names[p.label[i]])}</b>"
        f"<span>taken for <b>{_text(names[p.prediction[i]])}</b></span>"
        f"<span>confidence {_share(float(p.confidence[i]))}</span>"
        f"<span>loss {_number(float(p.loss[i]), '.3f')}</span>"
        f"<small>{_text(p.name[i])}</small></figcaption></figure>"
        for i in worst
    )
    return (
        f"<p>{len(wrong):,} of {n:,} predictions are wrong ({_share(len(wrong), n)}). "
        f'By loss, the worst {len(worst)}:</p>\n<div class="pictures">\n{figures}\n</div>'
    )


def _image(pixels: np.ndarray) -> str:
    """uint8 [H, W, 1 or 3] as an <img>; small ones are enlarged by a whole factor, unsmoothed."""
    from PIL import Image  # here, so that importing this module stays cheap

    png = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(png, "PNG")
    height, width = pixels.shape[:2]
    small = max(height, width) < 64
    factor = 128 // max(height, width) if small else 1
    return (
        f'<img{" class=small" if small else ""} width="{width * factor}" '
        f'height="{height * factor}" alt="" '
        f'src="data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}">'
    )


def _nested(value: Any) -> str:
    """A JSON value as nested tables; a list of plain values stays on one line."""
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        value = dict(enumerate(value))
    if isinstance(value, dict) and value:
        rows = (
            f'<tr><th scope="row">{_text(k)}</th><td>{_nested(v)}</td></tr>'
            for k, v in value.items()
        )
        return f'<table class="config">{"".join(rows)}</table>'
    return _text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
