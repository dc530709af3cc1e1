"""Runs on images with several labels: training, evaluation, the report, `eval` and `predict`."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from tests.examples import refusal
from tests.report.test_report import Page
from tests.run.test_fit import stopping_at
from tests.runs import in_process, tiny
from train.config import ConfigError, DataConfig, LossConfig, MixConfig, ModelConfig, RunError
from train.data.sources import open_splits
from train.data.sources.base import class_counts
from train.inference.evaluate import evaluate_run
from train.report.metrics_file import read_metrics
from train.run.evaluate import evaluate
from train.run.fit import fit
from train.run.parts import Run

NAMES = ["left", "right", "top"]


def arrays(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with up to three bright bars, and which bars there are."""
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 80, (count, 8, 8), np.uint8)
    labels = (draw.random((count, 3)) < (0.5, 0.3, 0.4)).astype(np.int64)
    for image, (left, right, top) in zip(images, labels, strict=True):
        image[:, 1] += (120 * left).astype(np.uint8)
        image[:, 6] += (120 * right).astype(np.uint8)
        image[1] += (50 * top).astype(np.uint8)
    return images, labels


def npz(path: Path, **changes) -> DataConfig:
    (x, y), (tx, ty) = arrays(160, 0), arrays(60, 1)
    found = {"x_train": x, "y_train": y, "x_test": tx, "y_test": ty, "class_names": NAMES}
    np.savez(path, **{**found, **changes})
    return DataConfig(
        **{"name": "npz", "dir": str(path), "multi_label": True, "image_size": 8, "threads": 0},
        mean=(0.3,),
        std=(0.3,),
    )


def config(data: DataConfig, **changes):
    return tiny(
        **{
            "duration": "40st",
            "ema_decay": 0.5,
            "model": ModelConfig(name="resnet8_cifar", depths=(1,), width=8),
            "data": data,
            "loss": LossConfig(name="bce", reduction="sum", class_weights="sqrt_inverse"),
            "mix": MixConfig(label_smoothing=0.1, mixup=0.2),
            "augment": replace(tiny().augment, crop="none"),
            **changes,
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    fit(config(npz(folder / "data.npz")), folder / "run", quiet=True)
    return folder / "run"


def rows(workdir: Path, split: str) -> list[dict]:
    return [row for row in read_metrics(workdir / "metrics.jsonl") if row["split"] == split]


def test_it_learns_and_the_best_checkpoint_has_the_best_precision(run, capsys):
    setup = config(npz(run.parent / "data.npz"))
    best = fit(setup, run)
    said = capsys.readouterr().out
    assert set(best) == {"step", "weights", "examples", "loss", "exact", "decisions", "map"}
    assert best["map"] > 0.7  # chance: about 0.4
    assert f"mean average precision {100 * best['map']:.2f} % and loss" in said
    evals, train = rows(run, "eval"), rows(run, "train")
    assert max(row["ema_map"] for row in evals) == pytest.approx(best["map"])
    assert all("map" not in row and "exact" in row for row in train)
    assert evaluate_run(setup, run, "best") == best
    made = Run(setup)
    found = evaluate(made, {"raw": made.new_state().variables}, per_example=True)
    values = found.examples.values
    expected = average_precision_score(values["label"], values["score"])
    assert found.metrics["raw"]["map"] == pytest.approx(expected)
    np.testing.assert_array_equal(values["label"], arrays(60, 1)[1])


def test_the_report_has_the_scores_of_each_class(run):
    page = Page(run / "report" / "index.html")
    cards = page.cards()
    best = max(rows(run, "eval"), key=lambda row: (row["ema_map"], row["step"]))
    assert cards["Mean average precision"][0] == f"{100 * best['ema_map']:.2f}%"
    assert cards["All labels right"][0] == f"{100 * best['ema_exact']:.2f}%"
    table = page.rows("classes")
    assert sorted(row[0] for row in table) == sorted(NAMES)
    counts = dict(zip(NAMES, arrays(60, 1)[1].sum(0), strict=True))
    assert {row[0]: row[1] for row in table} == {n: str(c) for n, c in counts.items()}
    precisions = [float(row[2].rstrip("%")) for row in table]
    assert precisions == sorted(precisions)
    labels = {text for where, text in page.texts if where.endswith("/text")}
    assert "Mean average precision (%)" in labels


def test_resume_and_resident_images_change_nothing(run, tmp_path, monkeypatch):
    data = npz(run.parent / "data.npz")
    with monkeypatch.context() as patch:
        stopping_at(patch, 13, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 13 of 40, saved"):
            fit(config(data), tmp_path, quiet=True)
    fit(config(replace(data, resident="on")), tmp_path, quiet=True)
    for split in ("train", "eval"):
        kept = [
            {k: v for k, v in r.items() if k in ("step", "loss", "map", "exact", "ema_map")}
            for r in rows(run, split)
        ]
        again = [
            {k: v for k, v in r.items() if k in ("step", "loss", "map", "exact", "ema_map")}
            for r in rows(tmp_path, split)
        ]
        assert kept == again


def test_predict_gives_each_label_its_own_probability(run, tmp_path, capsys):
    for i in range(3):
        Image.fromarray(arrays(60, 1)[0][i]).save(tmp_path / f"{i}.png")
    table = tmp_path / "out.csv"
    done = in_process(capsys, "predict", str(run), str(tmp_path), "--csv", str(table))
    assert done.returncode == 0, done.stderr
    found = [line.split(",") for line in table.read_text().splitlines()[1:]]
    sums = [sum(float(r[3]) for r in found if r[0].endswith(f"{i}.png")) for i in range(3)]
    assert max(abs(s - 1) for s in sums) > 0.1  # no distribution
    labels = arrays(60, 1)[1][:3]
    right = [(float(r[3]) > 0.5) == bool(labels[int(r[0][-5]), NAMES.index(r[2])]) for r in found]
    assert sum(right) >= 7


def test_what_an_npz_file_needs(tmp_path):
    path = tmp_path / "a.npz"
    splits = open_splits(npz(path))
    assert list(splits.train.class_names) == NAMES and splits.train[0].label.dtype == np.uint8
    np.testing.assert_array_equal(class_counts(splits.train), arrays(160, 0)[1].sum(0))
    y = arrays(160, 0)[1]
    cases = {
        "y_train is int64 (160,); data.multi_label needs 0 and 1, [160, K]": {"y_train": y[:, 0]},
        "and y_train[0, 0] is 2": {"y_train": np.where(y == y[0, 0], 2, y)},
        "y_train has 2 columns, and y_test 3": {"y_train": y[:, :2]},
        "class_names has 2 names, and y_train 3 columns": {"class_names": ["a", "b"]},
    }
    for message, changes in cases.items():
        assert message in refusal(npz(path, **changes))
    message = refusal(replace(npz(path), multi_label=False))
    assert "if an image may have several labels: --data.multi_label True" in message


@pytest.mark.parametrize("separator", [" ", ";", " ; "])
def test_a_csv_file_separates_labels(tmp_path, separator):
    images, labels = arrays(40, 0)
    lines = ["path,labels"]
    for i, (image, row) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        names = separator.join(name for name, one in zip(NAMES, row, strict=True) if one)
        lines.append(f"{i}.png,{names}")
    (tmp_path / "a.csv").write_text("\n".join(lines))
    data = replace(npz(tmp_path / "x.npz"), name="csv", dir=str(tmp_path / "a.csv"))
    splits = open_splits(data)
    assert splits.train.class_names == NAMES
    for source in splits:
        for i in range(len(source)):
            number = int(source.name(i).removesuffix(".png"))
            assert source[i].label.tolist() == labels[number].tolist()


def test_what_makes_no_sense_with_several_labels(tmp_path):
    data = npz(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match=r"data.balance inverse: needs one label for each image"):
        fit(config(replace(data, balance="inverse"), loss=LossConfig(name="bce")), tmp_path / "r")
