"""`data.test_split`: the best checkpoint is chosen on one split and reported on another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.test_report import Page
from tests.run.test_start_screen import said
from tests.runs import tiny
from train.config import ConfigError, DataConfig, ModelConfig, RunConfig
from train.data.sources import open_splits
from train.inference.evaluate import evaluate_run
from train.report.metrics_file import read_metrics
from train.run.directory import read_record
from train.run.fit import fit

COUNTS = {"train": 16, "val": 6, "test": 10}


def photos(root: Path, *splits: str) -> Path:
    draw = np.random.default_rng(0)
    for split in splits:
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(COUNTS[split] // 2):
                pixels = draw.integers(120 * label, 120 * label + 120, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def config(root: Path, **changes: object) -> RunConfig:
    data = DataConfig(name="folder", dir=str(root), eval_split="val", image_size=8, threads=0)
    return tiny(
        duration="6st",
        batch_size=8,
        log_every="3st",
        ema_decay=0.5,
        model=ModelConfig(name="resnet8_cifar", depths=(1,), width=8),
        data=replace(data, **{"test_split": "test", **changes}),
        eval=replace(tiny().eval, every="2st"),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = photos(tmp_path_factory.mktemp("data") / "photos", *COUNTS)
    workdir = root.parent / "run"
    fit(config(root), workdir, quiet=True)
    return workdir


def test_the_result_is_that_of_the_test_split(run, capsys):
    root = run.parent / "photos"
    row = fit(config(root), run)  # once more: all steps are done
    line = (
        f"best checkpoint: step {row['step']} (averaged weights), chosen on the split 'val', top-1 "
        f"accuracy {100 * row['top1']:.2f} % and loss {row['loss']:.4f} on 10 images of the split "
        "'test'"
    )
    assert line in capsys.readouterr().out
    assert list(row) == ["step", "weights", "split", "examples", "loss", "top1", "top5"]
    assert row["examples"] == 10 and row["split"] == "test"
    rows = read_metrics(run / "metrics.jsonl")
    evals = {r["step"]: r for r in rows if r["split"] == "eval"}
    assert [r["examples"] for r in evals.values()] == [6, 6, 6]
    best = max(evals, key=lambda step: (evals[step]["ema_top1"], step))
    assert row["step"] == best
    [tested] = [r for r in rows if r["split"] == "test"]  # the second evaluation replaces the first
    assert tested["step"] == best and tested["ema_loss"] == row["loss"]
    assert tested["examples"] == 10
    assert read_record(run)["examples"] == {"train": 16, "eval": 6, "test": 10}


def test_eval_agrees(run):
    root = run.parent / "photos"
    row = fit(config(root), run, quiet=True)
    again = evaluate_run(config(root, eval_split="test"), run, "best")
    assert again["loss"] == row["loss"] and again["examples"] == 10
    assert evaluate_run(config(root), run, "best")["examples"] == 6


def test_the_report_names_the_split_of_each_number(run):
    page = Page(run / "report" / "index.html")
    [tested] = [r for r in read_metrics(run / "metrics.jsonl") if r["split"] == "test"]
    of = f"best checkpoint, step {tested['step']}, averaged weights"
    cards = page.cards()
    assert cards["Top-1 accuracy"] == [f"{100 * tested['ema_top1']:.2f}%", f"{of}; test split"]
    assert cards["Loss"][1] == f"{of}; test split"
    assert cards["Top-1 accuracy at the choice"][1] == f"{of}; val split, which chose it"
    assert cards["Top-1 accuracy at the end"][1].endswith("; val split")
    text = (run / "report" / "index.html").read_text()
    assert "The val split chose the checkpoint, and this split was used once." in text
    assert "Warning: the same split" not in text


@pytest.mark.parametrize(("every", "warns"), [("1st", True), ("2st", False)])
def test_the_report_warns_where_one_split_does_both(every, warns, tmp_path):
    alone = config(photos(tmp_path / "photos", "train", "val"), test_split="")
    alone = replace(alone, duration="2st", eval=replace(alone.eval, every=every))
    assert "split" not in fit(alone, tmp_path / "run", quiet=True)
    text = (tmp_path / "run" / "report" / "index.html").read_text()
    assert (
        "Warning: the same split chose the checkpoint, as the best of 2 evaluations" in text
    ) == (warns)


def test_a_share_of_the_training_folder_chooses_where_there_is_no_other_split(tmp_path):
    root = photos(tmp_path / "photos", "train", "test")
    splits = open_splits(config(root, eval_fraction=0.5).data)
    assert len(splits.train) + len(splits.eval) == 16 and len(splits.test) == 10
    assert splits.notes[0] == f"{root}: evaluates on a share of 'train', tests on 'test'"
    assert splits.unused == {"eval_split": "a share of 'train' is held out for evaluation"}
    found = said(config(root), splits)["data"]
    assert found.endswith(" to evaluate on, 10 to test the best checkpoint on, RGB")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("exam", "has no folder for data.test_split 'exam'; it holds 'test', 'train', 'val'"),
        ("validation", "data.eval_split 'val' and data.test_split 'validation' are the same fold"),
    ],
)
def test_a_folder_that_cannot_test(option, message, tmp_path):
    root = photos(tmp_path, *COUNTS)
    with pytest.raises(ConfigError, match=message):
        open_splits(config(root, test_split=option).data)


def test_an_unreadable_test_image_is_found_before_training(tmp_path):
    root = photos(tmp_path / "photos", *COUNTS)
    (root / "test" / "cat" / "x.png").write_text("text")
    with pytest.raises(ConfigError, match=r"evaluation images that cannot be used: 1: test/cat/x"):
        fit(config(root), tmp_path / "run", quiet=True)


def test_splits_of_a_tfds_set(shared_data, tmp_path):
    data = DataConfig(name="cifar10", dir=str(shared_data / "tfds"))
    data = replace(data, train_split="train[:45000]", eval_split="train[45000:]", test_split="test")
    splits = open_splits(data)
    assert splits.counts == {"train": 45_000, "eval": 5_000, "test": 10_000}
    assert splits.notes == []
    notes = open_splits(replace(data, train_split="train", eval_split="train[-10:]")).notes
    assert notes == ["data.train_split 'train' and data.eval_split 'train[-10:]' share 10 examples"]
    same = tiny(data=replace(data, eval_split="test", image_size=32))
    with pytest.raises(ConfigError, match=r"data.test_split 'test': is data.eval_split too"):
        fit(same, tmp_path, quiet=True)
