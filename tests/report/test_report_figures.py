"""The figures of the report: cards, scores of classes, and the checkpoint they belong to."""

import re
import warnings

import numpy as np
import pytest

from tests.report.test_report import (
    ANIMALS,
    LABEL,
    PREDICTION,
    evaluation,
    predicted,
    report,
    training,
)
from train.report.classification import Predictions, class_scores, macro
from train.report.page import Subject


def test_summary_numbers(tmp_path):
    metrics = [
        training(1, images_per_sec=10, input_wait=0.9, seconds=3600),  # compiles: not the median
        training(2, images_per_sec=1000, input_wait=0.01, seconds=60),
        training(3, images_per_sec=1200, input_wait=0.02, seconds=60),
        evaluation(10, 0.5, top5=0.8),
        evaluation(2000, 0.75, top5=0.9),
        evaluation(3000, 0.75, top5=0.91),  # a tie: the first to reach it is the best
        evaluation(4000, 0.625, top5=0.92, ema_top1=0.7, ema_loss=0.9),
    ]
    config = {
        "recipe": "digits",
        "model": {"name": "resnet20", "parameters": 272474},
        "data": {"name": "mnist", "eval_split": "test"},
    }
    names = [*ANIMALS, "gnu", "hen"]
    of = "best checkpoint, step 3,000; test split"
    page = report(
        *(tmp_path, predicted(LABEL, PREDICTION, [0.5] * 8), names, metrics, config),
        subject=Subject(3000),
    )
    assert page.cards() == {
        "Top-1 accuracy": ["50.00%", of],
        "Top-5 accuracy": ["91.00%", of],
        "F1, mean of the classes": ["35.56%", of],
        "Loss": ["0.5", of],
        "Top-1 accuracy at the end": [
            *("62.50%", "last evaluation, step 4,000; averaged weights 70.00%; test split")
        ],
        "Steps": ["4,000", "400 epochs"],
        "Training time": ["1:02:00", "h:mm:ss"],
        "Images per second": ["1,000", "median"],
        "Waiting for input": ["2.00%", "of the time, median"],
        "Model": ["resnet20", "272,474 parameters"],
    }
    headings = [text for where, text in page.texts if where.endswith(("h1", "title"))]
    assert headings == ["digits: resnet20 on mnist, 2026-11-28"] * 2
    assert (
        "The results on this page are those of the best checkpoint (step 3,000) on the test split "
        "(8 images), unless a card says otherwise."
    ) in page.text


def test_averaged_weights_are_named_and_shown_with_their_top5(tmp_path):
    metrics = [evaluation(30, 0.5, top5=0.9, ema_top1=0.8, ema_top5=0.95)]
    names = [f"c{i}" for i in range(6)]
    page = report(tmp_path, predicted([0], [0]), names, metrics, subject=Subject(30, "ema"))
    of = "best checkpoint, step 30, averaged weights; evaluation split"
    assert page.cards()["Top-5 accuracy"] == ["95.00%", of]
    other = report(tmp_path, predicted([0], [0]), names, metrics, subject=Subject(20, "ema"))
    assert "Top-5 accuracy" not in other.cards()  # that step was not evaluated


def test_top5_of_five_classes_is_not_shown(tmp_path):
    for count in (5, 6):
        names = [f"c{i}" for i in range(count)]
        metrics = [evaluation(30, 0.5, top5=1.0)]
        page = report(tmp_path, predicted([0], [0]), names, metrics, subject=Subject(30))
        assert ("top-5" in page.text.lower()) == (count == 6)


def test_accuracy_throughout(tmp_path):
    metrics = [training(1, top1=0.25), evaluation(1, 0.5)]
    page = report(tmp_path, predicted([0], [1]), ["a", "b"], metrics)
    assert "error" not in page.text.lower() and "Top-1 accuracy (%)" in page.source


def test_a_held_out_share_is_named(tmp_path):
    config = {"data": {"name": "folder", "dir": "/photos/cats & dogs", "eval_split": "val"}}
    inside = report(tmp_path, predicted([0], [0], name=["val/a/1.png"]), ["a"], config=config)
    assert "on the val split (1 images)" in inside.text
    share = report(tmp_path, predicted([0], [0], name=["a/1.png"]), ["a"], config=config)
    assert "on the held-out share (1 images)" in share.text
    titles = [text for where, text in share.texts if where.endswith("title")]
    assert titles == ["folder cats & dogs, 2026-11-28"]


def test_the_section_that_repeats_the_run(tmp_path):
    config = {
        "command": "resnet-jax train folder --data.dir 'my photos'",
        "data": {"name": "folder", "dir": "my photos"},
        "devices": "1 x NVIDIA H100",
        "precision": "bf16",
        "commit": "abc123",
        "versions": {"python": "3.12.1", "jax": "0.11.2"},
        "examples": {"train": 1400, "eval": 100},
    }
    page = report(tmp_path, predicted([0], [0]), ["a"], config=config)
    found = [text for where, text in page.texts if re.search(r"section/dl/d[dt]$", where)]
    assert dict(zip(found[::2], found[1::2], strict=True)) == {
        "Command": "resnet-jax train folder --data.dir 'my photos'",
        "Data": "folder in my photos (1,400 train, 100 eval)",
        "Hardware": "1 x NVIDIA H100",
        "Precision": "bf16",
        "Versions": "python 3.12.1, jax 0.11.2",
        "Commit": "abc123",
        "Report written": "2026-11-28 04:05 UTC",
    }


def test_the_training_loss_is_explained(tmp_path):
    plain = report(
        tmp_path, predicted([0], [0]), ["a"], [training(1)], {"mix": {"label_smoothing": 0}}
    )
    assert "mean over the steps since the point before" in plain.text
    assert "smoothed" not in plain.text
    config = {"mix": {"label_smoothing": 0.1}}
    page = report(tmp_path, predicted([0], [0]), ["a"], [training(1)], config)
    assert "against smoothed targets (mix.label_smoothing 0.1)" in page.text


def test_scores_are_scikit_learns():
    from sklearn.metrics import precision_recall_fscore_support

    rng = np.random.default_rng(0)
    label = rng.integers(0, 7, 300)
    prediction = np.where(rng.random(300) < 0.5, label, rng.integers(0, 9, 300))
    prediction[prediction == 3] = 4  # a class that is never predicted
    scores = class_scores(Predictions(label, prediction, np.zeros(300), np.zeros(300)), 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, _ = precision_recall_fscore_support(
            label, prediction, labels=range(7), zero_division=0
        )
    assert [s.recall for s in scores[:7]] == pytest.approx(recall)
    assert np.nan_to_num([s.precision for s in scores[:7]]) == pytest.approx(precision)
    assert [s.f1 for s in scores[:7]] == pytest.approx(f1)
    assert macro(scores) == pytest.approx(
        {"precision": precision.mean(), "recall": recall.mean(), "f1": f1.mean()}
    )
    assert [s.examples for s in scores[7:]] == [0, 0] and np.isnan(scores[8].f1)
