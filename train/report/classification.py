"""The tables of the report: confusions, and precision, recall and F1 of each class."""

import collections
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from train.learn.tasks import NO_CLASS

Pairs = collections.Counter[tuple[int, int]]  # (true, predicted) class

MATRIX_CLASSES = 50  # the most classes a confusion matrix, or an unfolded table, is readable for
COUNTED_CLASSES = 20  # the most classes whose counts fit in the cells
CONFUSIONS = 30


@dataclass(frozen=True)
class Predictions:
    """What the evaluated model said of each example of a split."""

    label: np.ndarray  # int [N]
    prediction: np.ndarray  # int [N]; NO_CLASS: the logits were tied or NaN, which is a mistake
    confidence: np.ndarray  # float [N]: the highest softmax probability
    loss: np.ndarray  # float [N]
    name: list[str]  # [N] file name or "test[17]"


@dataclass(frozen=True)
class Scores:
    """How well one class is recognised, in shares of 1; NaN where there is nothing to divide by."""

    examples: int
    precision: float
    """Share of the images predicted as the class that are of it."""
    recall: float
    """Share of the class's images that are recognised: its accuracy."""

    @property
    def f1(self) -> float:
        """Their harmonic mean; 0 for a class that is never predicted, or never rightly."""
        if not self.examples:
            return math.nan
        precision = self.precision if math.isfinite(self.precision) else 0.0
        total = precision + self.recall
        return 2 * precision * self.recall / total if total else 0.0


def class_scores(p: Predictions, classes: int) -> list[Scores]:
    """Those of each class, by label."""
    counts, examples = _counts(p)
    predicted = collections.Counter(p.prediction.tolist())

    def ratio(part: int, whole: int) -> float:
        return part / whole if whole else math.nan

    return [
        Scores(examples[i], ratio(counts[i, i], predicted[i]), ratio(counts[i, i], examples[i]))
        for i in range(classes)
    ]


def macro(scores: Sequence[Scores]) -> Mapping[str, float]:
    """Means of precision, recall and F1 over the classes that have images.

    A class that is never predicted has a precision of 0, as in scikit-learn.
    """
    seen = [score for score in scores if score.examples]
    if not seen:
        return dict.fromkeys(("precision", "recall", "f1"), math.nan)
    columns = {
        "precision": [s.precision if math.isfinite(s.precision) else 0.0 for s in seen],
        "recall": [s.recall for s in seen],
        "f1": [s.f1 for s in seen],
    }
    return {name: sum(values) / len(values) for name, values in columns.items()}


def class_name(names: Sequence[str], prediction: int) -> str:
    """The name of a prediction, which may be NO_CLASS."""
    return names[prediction] if prediction != NO_CLASS else "no class"


def text(value: object) -> str:
    return html.escape(str(value))


def share(part: float, whole: float = 1) -> str:
    return f"{100 * part / whole:.2f}%" if whole and math.isfinite(part) else "-"


def number(value: float, form: str = ",.0f") -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _counts(p: Predictions) -> tuple[Pairs, collections.Counter[int]]:
    """How often each (true, predicted) class happened, and each true class.

    Not a [K, K] matrix: with the 21,841 classes of ImageNet-21k that would take 4 GB.
    """
    label, prediction = p.label.tolist(), p.prediction.tolist()
    return collections.Counter(zip(label, prediction, strict=True)), collections.Counter(label)


def _table(kind: str, head: Iterable[object], rows: Iterable[str]) -> str:
    titles = "".join(f'<th scope="col"><span>{text(title)}</span></th>' for title in head)
    return (
        f'<div class="wide"><table class="{kind}">\n<thead><tr>{titles}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _row(*cells: object, bar: float = 0) -> str:
    tds = "".join(f"<td>{text(cell)}</td>" for cell in cells)
    return f'<tr style="--v:{bar:.4f}">{tds}</tr>'


def confusions(p: Predictions, names: Sequence[str]) -> str:
    """The confusion matrix, or the most frequent confusions where it would be too large to read."""
    counts, examples = _counts(p)
    if len(names) <= MATRIX_CLASSES:
        return _matrix(counts, examples, names)
    wrong = [(*pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]]
    rows = (
        _row(names[true], class_name(names, predicted), f"{count:,}", share(count, examples[true]))
        for true, predicted, count in wrong[:CONFUSIONS]
    )
    head = ("True", "Predicted", "Count", "Share of true class")
    shown = f"<p>The {min(CONFUSIONS, len(wrong))} most frequent of {len(wrong):,}.</p>"
    return shown + _table("confusions", head, rows)


def _matrix(counts: Pairs, examples: collections.Counter[int], names: Sequence[str]) -> str:
    dense = len(names) > COUNTED_CLASSES
    tied = any(predicted == NO_CLASS for _, predicted in counts)
    columns = [*range(len(names)), *([NO_CLASS] if tied else [])]
    note = " No class: the highest logits were tied, or one was NaN." if tied else ""
    titles = [class_name(names, predicted) for predicted in columns]
    rows = []
    for true, name in enumerate(names):
        cells = f'<th scope="row">{text(name)}</th>'
        for predicted, other in zip(columns, titles, strict=True):
            count = counts[true, predicted]
            heat = math.sqrt(count / examples[true]) if count else 0
            kind = "right" if true == predicted else "wrong"
            part = f"{count:,} of {examples[true]:,} ({share(count, examples[true])})"
            hover = text(f"{name} as {other}: {part}")
            cells += f'<td class="{kind}" style="--v:{heat:.3f}" title="{hover}">'
            cells += "</td>" if dense else f"{count}</td>"
        rows.append(f"<tr>{cells}</tr>")
    return (
        "<p>Rows are the true class, columns the predicted one. The colour is the square root of "
        "the share of the row, so that rare mistakes can be seen: blue for right, orange for "
        f"wrong.{note}</p>" + _table("matrix dense" if dense else "matrix", ["", *titles], rows)
    )


def classes(p: Predictions, names: Sequence[str]) -> str:
    """Recall, precision and F1 of each class, the lowest F1 first, classes without images last."""
    counts, _ = _counts(p)
    scores = class_scores(p, len(names))
    mistaken: dict[int, str] = {}
    for (true, predicted), count in counts.most_common():
        if true != predicted:
            mistaken.setdefault(true, f"{class_name(names, predicted)} ({count:,})")
    order = sorted(
        range(len(names)), key=lambda i: scores[i].f1 if scores[i].examples else math.inf
    )
    rows = [
        _row(
            *(names[i], f"{scores[i].examples:,}", share(scores[i].recall)),
            *(share(scores[i].precision), share(scores[i].f1), mistaken.get(i, "-")),
            bar=scores[i].recall if scores[i].examples else 0,
        )
        for i in order
    ]
    head = ("Class", "Images", "Recall", "Precision", "F1", "Most often mistaken for")
    mean = macro(scores)
    means = ", ".join(
        f"{label} {share(mean[label.lower()])}" for label in ("recall", "precision", "F1")
    )
    body = (
        "<p>Recall: share of the class's images that are recognised (its accuracy). Precision: "
        "share of the images predicted as the class that are of it. F1: their harmonic mean. "
        f"Means over the classes: {means}.</p>" + _table("classes", head, rows[:MATRIX_CLASSES])
    )
    if rest := rows[MATRIX_CLASSES:]:
        body += f"<details><summary>The other {len(rest):,} classes</summary>"
        body += _table("classes", head, rest) + "</details>"
    return body
