"""Runs with other losses: they resume exactly, and eval uses the class weights of the run."""

import dataclasses
import json
import signal
from dataclasses import replace

import numpy as np
import pytest

from tests.run.test_fit import content, stopping_at
from tests.run.test_start_screen import said
from tests.runs import tiny
from train.config import ConfigError, DataConfig, LossConfig, MixConfig, ModelConfig, RunError
from train.data.sources import ArraySource, Splits, open_splits
from train.data.sources.labels import count_labels, read_labels
from train.inference.evaluate import evaluate_run
from train.report.metrics_file import read_metrics
from train.run.directory import read_class_weights, write_record
from train.run.fit import fit
from train.run.parts import Run

LOSS = LossConfig(
    name="focal", class_weights="inverse", l1=1e-4, l2=1e-3, l2_on="(backbone/.*|head/bias)"
)


def config(**changes: object):
    return tiny(
        duration="6st",
        log_every="2st",
        model=ModelConfig(name="resnet8_cifar", depths=(1,), width=8),
        loss=LOSS,
        mix=MixConfig(label_smoothing=0.1, mixup=0.2),
        **changes,
    )


def test_it_resumes_bit_for_bit_and_evaluates_with_its_weights(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    best = fit(config(), whole, quiet=True)
    with monkeypatch.context() as patch:
        stopping_at(patch, 3, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 3 of 6, saved"):
            fit(config(), cut, quiet=True)
    fit(config(), cut, quiet=True)
    assert content(whole) == content(cut)
    train = [row for row in read_metrics(whole / "metrics.jsonl") if row["split"] == "train"]
    assert all(row["penalty"] > 0 for row in train)
    counts = count_labels(open_splits(config().data).train, config().data)
    weights = read_class_weights(whole)
    assert weights == pytest.approx((counts.sum() / (10 * counts)).tolist())
    record = json.loads((whole / "config.json").read_text())
    assert record["loss"]["class_weights"] == "inverse"
    assert evaluate_run(config(), whole, "best")["loss"] == best["loss"]
    write_record(whole, {**record, "class_weights": [2 * w for w in weights]})
    assert evaluate_run(config(), whole, "best")["loss"] == pytest.approx(2 * best["loss"])


def test_the_start_screen_names_the_loss():
    images = np.zeros((110, 8, 8, 1), np.uint8)
    source = ArraySource(images, np.repeat([0, 1], [100, 10]), ["a", "b"], "train")
    found = said(replace(config(), data=DataConfig(name="npz", dir="x")), Splits(source, source))
    assert found["loss"] == (
        "focal, gamma 2, class weights 0.55 to 5.5 (inverse), L1 penalty 0.0001 on (.*/)?kernel, "
        "L2 penalty 0.001 on (backbone/.*|head/bias)"
    )
    bce = LossConfig(name="bce", threshold=0.2, reduction="sum", class_weights=(1.0, 3.0))
    assert said(tiny(loss=bce), Splits(source, source))["loss"] == (
        "bce, sum of the classes, targets above 0.2 are 1, class weights 1 to 3"
    )
    assert "loss" not in said(tiny(), Splits(source, source))


@pytest.mark.parametrize(
    "loss, message",
    [
        ({"class_weights": (1.0, 2.0)}, "loss.class_weights: has 2 numbers; the data have 10 cl"),
        ({"l1": 0.1, "l1_on": "neck/.*"}, "loss.l1_on 'neck/.*' matches no parameter"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused_before_compilation(loss, message, tmp_path):
    with pytest.raises(ConfigError, match=message.replace("*", r"\*")):
        fit(tiny(loss=LossConfig(**loss)), tmp_path, quiet=True)


def test_a_class_without_images_has_no_frequency():
    source = ArraySource(np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 0, 2, 2]), "abc", "train")
    run = Run(tiny(loss=LossConfig(class_weights="inverse")), splits=Splits(source, source))
    with pytest.raises(ConfigError, match="inverse: no training images of 'b'; remove these"):
        _ = run.class_weights


def test_labels_are_read_where_a_source_has_no_list():
    class Plain:
        def __init__(self, source):
            self.source, self.class_names = source, source.class_names
            self.name, self.channels = source.name, source.channels

        def __len__(self):
            return len(self.source)

        def __getitem__(self, index):
            return self.source[index]

    source, data = open_splits(config().data).train, dataclasses.replace(config().data, threads=3)
    np.testing.assert_array_equal(read_labels(Plain(source), data), source.labels)
