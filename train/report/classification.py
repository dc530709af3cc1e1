"""Classification's section of the report: confusions, scores of each class, worst mistakes."""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from train.learn.tasks import NO_CLASS
from train.report.base import Examples, Part
from train.report.markup import image, number, row, share, table, text
from train.report.metrics_file import Row

Pairs = collections.Counter[tuple[int, int]]  # (true, predicted) class

MATRIX_CLASSES = 50  # the most classes a confusion matrix, or an unfolded table, is readable for
COUNTED_CLASSES = 20  # the most classes whose counts fit in the cells
CONFUSIONS = 30  # the most confusions in the list that replaces a larger matrix
MISTAKES = 24  # the most mistakes that are shown as pictures


@dataclass(frozen=True)
class Predictions:
    """The predictions for each example of a split, as `Classify.examples` returns them."""

    label: np.ndarray  # int [N]
    prediction: np.ndarray  # int [N]; NO_CLASS (tied or NaN logits) counts as a mistake
    confidence: np.ndarray  # float [N]: the highest softmax probability
    loss: np.ndarray  # float [N]


def section(examples: Examples, metrics: Row) -> Part:
    """The figures, the confusion matrix, the scores of each class and the worst mistakes.

    Raises:
      ValueError: a label or a prediction is not the index of a class.
    """
    columns = {field.name: examples.values[field.name] for field in dataclasses.fields(Predictions)}
    p, names = Predictions(**columns), examples.class_names
    _check(p, len(names))
    count, right = len(p.label), int((p.label == p.prediction).sum())
    cards = [("Top-1 accuracy", share(right, count))]
    top5 = metrics.get("top5")
    if len(names) > 5 and top5 is not None:  # with fewer classes it is always 100 %
        cards.append(("Top-5 accuracy", share(top5)))
    f1 = macro(class_scores(p, len(names)))["f1"]
    cards.append(("F1, mean of the classes", share(f1)))
    return Part(
        cards,
        [
            ("Confusion matrix", confusions(p, names)),
            ("Recall, precision and F1 by class", classes(p, names)),
            ("Worst mistakes", mistakes(p, examples)),
        ],
    )


def _check(p: Predictions, count: int) -> None:
    for what, ids, least in (("label", p.label, 0), ("prediction", p.prediction, NO_CLASS)):
        if len(ids) and not least <= ids.min() <= ids.max() < count:
            raise ValueError(f"{what} in {ids.min()}..{ids.max()}, but there are {count} classes")


@dataclass(frozen=True)
class Scores:
    """How well one class is recognised, in shares of 1; NaN for 0 / 0."""

    examples: int
    precision: float
    """Share of the images predicted as the class that are of it."""
    recall: float
    """Share of the class's images that are recognised: its accuracy."""

    @property
    def f1(self) -> float:
        """Their harmonic mean; 0 for a class that is never predicted, or never correctly."""
        if not self.examples:
            return math.nan
        precision = self.precision if math.isfinite(self.precision) else 0.0
        total = precision + self.recall
        return 2 * precision * self.recall / total if total else 0.0


def class_scores(p: Predictions, classes: int) -> list[Scores]:
    """The scores of each class, by label."""
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
    """The name of a predicted class; "no class" for NO_CLASS."""
    return names[prediction] if prediction != NO_CLASS else "no class"


def _counts(p: Predictions) -> tuple[Pairs, collections.Counter[int]]:
    """The number of examples of each (true, predicted) pair, and of each true class.

    Counters and no [K, K] matrix: for the 21,841 classes of ImageNet-21k that would take 4 GB.
    """
    label, prediction = p.label.tolist(), p.prediction.tolist()
    return collections.Counter(zip(label, prediction, strict=True)), collections.Counter(label)


def confusions(p: Predictions, names: Sequence[str]) -> str:
    """The confusion matrix, or the most frequent confusions where it would be too large to read."""
    counts, examples = _counts(p)
    if len(names) <= MATRIX_CLASSES:
        return _matrix(counts, examples, names)
    wrong = [(*pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]]
    rows = (
        row(names[true], class_name(names, predicted), f"{count:,}", share(count, examples[true]))
        for true, predicted, count in wrong[:CONFUSIONS]
    )
    head = ("True", "Predicted", "Count", "Share of true class")
    shown = f"<p>The {min(CONFUSIONS, len(wrong))} most frequent of {len(wrong):,}.</p>"
    return shown + table("confusions", head, rows)


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
        f"wrong.{note}</p>" + table("matrix dense" if dense else "matrix", ["", *titles], rows)
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
        row(
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
        f"Means over the classes: {means}.</p>" + class_table(head, rows)
    )
    return body


def class_table(head: Sequence[str], rows: Sequence[str]) -> str:
    """A table with a row for each class; the classes after the first 50 are folded."""
    shown = table("classes", head, rows[:MATRIX_CLASSES])
    if rest := rows[MATRIX_CLASSES:]:
        shown += f"<details><summary>The other {len(rest):,} classes</summary>"
        shown += table("classes", head, rest) + "</details>"
    return shown


def mistakes(p: Predictions, examples: Examples) -> str:
    """The wrong predictions of highest loss, as pictures; a NaN loss comes last."""
    names, n = examples.class_names, len(p.label)
    wrong = np.flatnonzero(p.label != p.prediction)
    worst = wrong[np.argsort(-p.loss[wrong], kind="stable")][:MISTAKES].tolist()
    if not worst:
        none = f"No mistakes: all {n:,} predictions are right." if n else "No examples evaluated."
        return f"<p>{none}</p>"
    figures = "\n".join(
        f"<figure>{image(examples.picture(i))}<figcaption><b>{text(names[p.label[i]])}</b>"
        f"<span>taken for <b>{text(class_name(names, p.prediction[i]))}</b></span>"
        f"<span>confidence {share(float(p.confidence[i]))}</span>"
        f"<span>loss {number(float(p.loss[i]), '.3f')}</span>"
        f"<small>{text(examples.names[i])}</small></figcaption></figure>"
        for i in worst
    )
    return (
        f"<p>{len(wrong):,} of {n:,} predictions are wrong ({share(len(wrong), n)}). "
        f'By loss, the worst {len(worst)}:</p>\n<div class="pictures">\n{figures}\n</div>'
    )
