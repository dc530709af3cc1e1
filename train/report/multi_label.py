"""Multi-label classification's section of the report: scores of each class, worst examples."""

import math

import numpy as np

from train.learn.tasks.multi_label import average_precision
from train.report.base import Examples, Part
from train.report.classification import class_table
from train.report.markup import image, number, row, share, text
from train.report.metrics_file import Row

WORST = 24  # the most examples that are shown as pictures
THRESHOLD = 0.5


def section(examples: Examples, metrics: Row) -> Part:
    """The figures, the scores of each class and the examples of the highest loss."""
    label, score = examples.values["label"] > 0, examples.values["score"]
    precision, scores = average_precision(label, score), _scores(label, score > THRESHOLD)
    seen, exact = label.any(0), (label == (score > THRESHOLD)).all(-1)
    cards = [
        ("Mean average precision", share(_mean(precision[seen]))),
        ("F1, mean of the classes", share(_mean(scores[2][seen]))),
        ("All labels right", share(int(exact.sum()), len(exact))),
    ]
    return Part(
        cards,
        [
            ("Average precision, recall and F1 by class", _classes(examples, precision, scores)),
            ("Worst examples", _worst(examples)),
        ],
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _scores(label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """float64 [3, K]: precision, recall and F1 of each class; a class never predicted has a
    precision of 0, as in scikit-learn."""
    true = (label & predicted).sum(0)
    counts = predicted.sum(0), label.sum(0), (predicted.sum(0) + label.sum(0)) / 2
    return np.stack([true / np.maximum(count, 1) for count in counts])


def _classes(examples: Examples, precision: np.ndarray, scores: np.ndarray) -> str:
    """One row for each class, the lowest average precision first, without images last."""
    names, counts = examples.class_names, (examples.values["label"] > 0).sum(0)
    order = np.argsort(np.where(counts > 0, precision, np.inf), kind="stable").tolist()

    def cells(i: int) -> str:
        columns = [share(float(x[i])) if counts[i] else "-" for x in (precision, *scores)]
        return row(names[i], f"{counts[i]:,}", *columns, bar=precision[i] if counts[i] else 0)

    rows = [cells(i) for i in order]
    head = ("Class", "Images", "Average precision", "Precision", "Recall", "F1")
    body = (
        "<p>Average precision: the mean of the precision over all thresholds, weighted by the gain "
        "in recall. Precision, recall and F1 are those of probabilities above "
        f"{THRESHOLD}.</p>" + class_table(head, rows)
    )
    return body


def _worst(examples: Examples) -> str:
    """The examples of the highest loss, as pictures with their missed and wrong labels."""
    label, score = examples.values["label"] > 0, examples.values["score"]
    loss, names = examples.values["loss"], examples.class_names
    wrong = np.flatnonzero((label != (score > THRESHOLD)).any(-1))
    worst = wrong[np.argsort(-loss[wrong], kind="stable")][:WORST].tolist()
    if not worst:
        return f"<p>No mistakes: all labels of {len(loss):,} images are right.</p>"

    def listed(mask: np.ndarray) -> str:
        return ", ".join(names[k] for k in np.flatnonzero(mask).tolist()) or "none"

    figures = "\n".join(
        f"<figure>{image(examples.picture(i))}<figcaption><b>{text(listed(label[i]))}</b>"
        f"<span>predicted <b>{text(listed(score[i] > THRESHOLD))}</b></span>"
        f"<span>loss {number(float(loss[i]), '.3f')}</span>"
        f"<small>{text(examples.names[i])}</small></figcaption></figure>"
        for i in worst
    )
    return (
        f"<p>{len(wrong):,} of {len(loss):,} images have a wrong or a missing label "
        f"({share(len(wrong), len(loss))}). By loss, the worst {len(worst)}:</p>\n"
        f'<div class="pictures">\n{figures}\n</div>'
    )
