"""A run directory as one page: `report/index.html`, readable offline and self-contained.

The frame is `report.html`; each function here fills one place of it, from data to an HTML string.
"""

import base64
import collections
import dataclasses
import datetime
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

from train.curves import column, curves, finite
from train.metrics import Row, parse_metrics
from train.names import utf8

Pairs = collections.Counter[tuple[int, int]]  # (true, predicted) class

MATRIX_CLASSES = 50  # the most classes a confusion matrix, or an unfolded table, is readable for
COUNTED_CLASSES = 20  # the most classes whose counts fit in the cells
CONFUSIONS = 30
MISTAKES = 24


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
    rows, unreadable = parse_metrics(workdir / "metrics.jsonl")
    train, evals = ([r for r in rows if r["split"] == split] for split in ("train", "eval"))
    fields = ("recipe", "model.name", "data.name")
    title = " / ".join(str(v) for f in fields if (v := _get(config, f))) or workdir.resolve().name
    frame = resources.files(__package__).joinpath("report.html").read_text("utf-8")
    page = string.Template(frame).substitute(
        title=_text(title),
        cards=_cards(config, train, evals, predictions),
        curves=curves(train, evals),
        unreadable=f"<p>Unreadable lines left out: {unreadable}.</p>" if unreadable else "",
        confusions=_confusions(predictions, class_names),
        classes=_classes(predictions, class_names),
        mistakes=_mistakes(predictions, class_names, picture),
        config=_text(json.dumps(config, indent=2, ensure_ascii=False))
        if config
        else "No config.json.",
    )
    target = workdir / "report" / "index.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".html.tmp")
    partial.write_text(utf8(page), encoding="utf-8")
    os.replace(partial, target)
    return target


def _check(p: Predictions, classes: int) -> None:
    lengths = [len(getattr(p, field.name)) for field in dataclasses.fields(p)]
    if len(set(lengths)) > 1:
        raise ValueError(f"predictions differ in length: {lengths}")
    for what, ids in (("label", p.label), ("prediction", p.prediction)):
        if len(ids) and not 0 <= ids.min() <= ids.max() < classes:
            raise ValueError(f"{what} in {ids.min()}..{ids.max()}, but there are {classes} classes")


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


def _cards(config: Row, train: list[Row], evals: list[Row], p: Predictions) -> str:
    """A card (label, value, note) for each number one asks for first."""
    parameters = _get(config, "parameters") or _get(config, "model.parameters") or ""
    size = f"{parameters:,}" if isinstance(parameters, int) else parameters
    steps, epochs = (max(finite(train + evals, f), default=math.nan) for f in ("step", "epoch"))
    seconds = finite(train, "seconds")
    time = datetime.timedelta(seconds=round(sum(seconds))) if seconds else "-"
    n, right = len(p.label), int((p.label == p.prediction).sum())
    loss = float(np.mean(p.loss, dtype=np.float64)) if n else math.nan
    # Medians, because the first interval of a run contains its compilation.
    speed, wait = (
        statistics.median(finite(train, f) or [math.nan]) for f in ("images_per_sec", "input_wait")
    )
    cards = [
        ("Final top-1", *_final(evals, "top1", _share)),
        ("Final top-5", *_final(evals, "top5", _share)),
        ("Final loss", *_final(evals, "loss", lambda loss: _number(loss, ".4g"))),
        ("Best top-1", *_best(evals)),
        # The page's other numbers are these predictions', which may be of another checkpoint.
        ("Examples evaluated", f"{n:,}", f"top-1 {_share(right, n)}, loss {_number(loss, '.4g')}"),
        ("Steps", _number(steps), f"{epochs:.4g} epochs" if epochs == epochs else ""),
        ("Training time", time, "h:mm:ss"),
        ("Images per second", _number(speed), "median"),
        ("Waiting for input", _share(wait), "of the time, median"),
        ("Model", _get(config, "model.name") or "-", f"{size} parameters" if size else ""),
    ]
    return "\n".join(
        f"<div><dt>{label}</dt><dd>{_text(value)}</dd><dd>{_text(note)}</dd></div>"
        for label, value, note in cards
    )


def _final(evals: list[Row], field: str, form: Callable[[float], str]) -> tuple[str, str]:
    plain, ema = (column(evals[-1:] or [{}], f).item() for f in (field, f"ema_{field}"))
    return form(plain), f"EMA {form(ema)}" if ema == ema else ""


def _best(evals: list[Row]) -> tuple[str, str]:
    """The best top-1 of the weights or of their EMA, and the last step that had it."""
    found = [
        (top1, f"step {_number(row['step'])}{note}")
        for field, note in (("top1", ""), ("ema_top1", ", EMA"))
        for row in evals
        for top1 in finite([row], field)
    ]
    top1, note = max(reversed(found), key=lambda pair: pair[0], default=(math.nan, ""))
    return _share(top1), note


def _counts(p: Predictions) -> tuple[Pairs, collections.Counter[int]]:
    """How often each (true, predicted) class happened, and each true class.

    Not a [K, K] matrix: with the 21,841 classes of ImageNet-21k that would take 4 GB.
    """
    label, prediction = p.label.tolist(), p.prediction.tolist()
    return collections.Counter(zip(label, prediction, strict=True)), collections.Counter(label)


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
    counts, examples = _counts(p)
    if len(names) <= MATRIX_CLASSES:
        return _matrix(counts, examples, names)
    wrong = [(*pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]]
    rows = (
        _row(names[true], names[predicted], f"{count:,}", _share(count, examples[true]))
        for true, predicted, count in wrong[:CONFUSIONS]
    )
    head = ("True", "Predicted", "Count", "Share of true class")
    shown = f"<p>The {min(CONFUSIONS, len(wrong))} most frequent of {len(wrong):,}.</p>"
    return shown + _table("confusions", head, rows)


def _matrix(counts: Pairs, examples: collections.Counter[int], names: Sequence[str]) -> str:
    dense = len(names) > COUNTED_CLASSES
    rows = []
    for true, name in enumerate(names):
        cells = f'<th scope="row">{_text(name)}</th>'
        for predicted, other in enumerate(names):
            count = counts[true, predicted]
            heat = math.sqrt(count / examples[true]) if count else 0
            kind = "right" if true == predicted else "wrong"
            share = f"{count:,} of {examples[true]:,} ({_share(count, examples[true])})"
            hover = _text(f"{name} as {other}: {share}")
            cells += f'<td class="{kind}" style="--v:{heat:.3f}" title="{hover}">'
            cells += "</td>" if dense else f"{count}</td>"
        rows.append(f"<tr>{cells}</tr>")
    return (
        "<p>Rows are the true class, columns the predicted one. The colour is the square root of "
        "the share of the row, so that rare mistakes can be seen: blue for right, orange for "
        "wrong.</p>" + _table("matrix dense" if dense else "matrix", ["", *names], rows)
    )


def _classes(p: Predictions, names: Sequence[str]) -> str:
    """Accuracy of each class, the worst first and those without examples last."""
    counts, examples = _counts(p)
    mistaken: dict[int, str] = {}
    for (true, predicted), count in counts.most_common():
        if true != predicted:
            mistaken.setdefault(true, f"{names[predicted]} ({count:,})")
    share = {i: counts[i, i] / examples[i] if examples[i] else math.inf for i in range(len(names))}
    rows = [
        _row(
            *(names[i], f"{examples[i]:,}", f"{counts[i, i]:,}", _share(share[i])),
            mistaken.get(i, "-"),
            bar=share[i] if examples[i] else 0,
        )
        for i in sorted(share, key=share.__getitem__)
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
    scale = 128 // max(height, width) if max(height, width) < 64 else 1
    data = base64.b64encode(png.getvalue()).decode()
    return (
        f'<img class="x{scale}" width="{width * scale}" height="{height * scale}" alt="" '
        f'src="data:image/png;base64,{data}">'
    )
