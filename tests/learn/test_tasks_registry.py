"""A task that is defined here, trained, evaluated and reported without a change to any other file.

It is a regression: the first output is trained towards the mean brightness of the image plus 5. Its
headline metric is the magnitude of that output, of which lower is better. It grows while the loss
falls, so the best checkpoint by the headline metric is the first one and by the loss the last one.
"""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import train.learn.tasks.registry as registry
from tests.report.test_report import Page, grey
from tests.runs import tiny
from train.checkpoint.manager import Checkpoints
from train.config import CheckpointConfig, ModelConfig, OptimConfig, RunConfig
from train.distributed.mesh import make_mesh, replicated_sharding
from train.inference.evaluate import evaluate_run
from train.learn.tasks import Classify, Metric, Task
from train.report.base import Examples, Part
from train.report.metrics_file import Row, read_metrics
from train.report.page import Subject, write_report
from train.report.sections import SECTIONS
from train.run.fit import fit

MAGNITUDE = Metric("magnitude", "size", "output size", unit="units", higher_is_better=False)


class Brightness(Task):
    name = "brightness"
    headline = MAGNITUDE
    loss_metric = Metric("loss", "loss", unit="squared units", higher_is_better=False)

    def loss(self, outputs, batch):
        return jnp.square(outputs[:, 0] - batch["image"].mean((1, 2, 3)) - 5)

    def metrics(self, outputs, batch):
        return {"magnitude": jnp.abs(outputs[:, 0]), "second": jnp.abs(outputs[:, 1])}

    def examples(self, outputs, batch):
        return {"both": outputs[:, :2], "brightness": batch["image"].mean((1, 2, 3))}


def section(examples: Examples, metrics: Row) -> Part:
    brightest = int(examples.values["brightness"].argmax())
    size = np.abs(examples.values["both"][:, 0]).mean()
    return Part(
        [("Output size", f"{size:.4f}"), ("Logged size", f"{metrics['magnitude']:.4f}")],
        [("Brightest image", f"<p>{examples.names[brightest]}</p>")],
    )


class Result(NamedTuple):
    config: RunConfig
    workdir: Path
    best: Row
    printed: str


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The task and its section are registered, and every run trains the task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.TASKS, "brightness", lambda config: Brightness())
        patch.setitem(SECTIONS, "brightness", section)
        patch.setattr(registry, "task_name", lambda config: "brightness")
        yield


@pytest.fixture(scope="module")
def run(registered, tmp_path_factory) -> Result:
    workdir = tmp_path_factory.mktemp("brightness") / "run"
    config = tiny(
        duration="20st",
        log_every="5st",
        ema_decay=0.5,
        model=ModelConfig(name="resnet8_cifar", depths=(1,), width=8),
        optim=OptimConfig(lr=0.01, lr_batch=32, warmup="0st", momentum=0.0),
        checkpoint=CheckpointConfig(keep=1),
    )
    config = replace(config, eval=replace(config.eval, every="5st"))
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        best = fit(config, workdir)
    return Result(config, workdir, best, stdout.getvalue())


def rows(run: Result, split: str) -> list[Row]:
    return [row for row in read_metrics(run.workdir / "metrics.jsonl") if row["split"] == split]


def test_rows_have_the_tasks_metrics(run):
    (first, *_, last), trained = rows(run, "eval"), rows(run, "train")
    assert [row["step"] for row in trained] == [5, 10, 15, 20]
    metrics = {"loss", "magnitude", "second"}
    for row in trained:
        assert set(row) >= metrics and not {"top1", "top5"} & set(row)
    for row in (first, last):
        assert set(row) >= metrics | {f"ema_{name}" for name in metrics}
        assert not {"top1", "top5", "ema_top1"} & set(row)
    assert first["examples"] == 359
    assert last["loss"] < 0.5 * first["loss"]  # it learns
    assert last["ema_magnitude"] > 1.5 * first["ema_magnitude"]


def test_the_best_checkpoint_is_that_of_the_headline_metric(run):
    magnitudes = {row["step"]: row["ema_magnitude"] for row in rows(run, "eval")}
    losses = {row["step"]: row["ema_loss"] for row in rows(run, "eval")}
    assert min(magnitudes, key=magnitudes.get) == 5 and min(losses, key=losses.get) == 20
    assert run.best["step"] == 5
    folder = run.workdir / "checkpoints"
    assert Checkpoints(folder, run.config.checkpoint, Brightness()).steps() == [5, 20]
    for name, step in (("top1", 5), ("loss", 20)):
        checkpoints = Checkpoints(folder, CheckpointConfig(best=name), Brightness())
        best = checkpoints.restore_weights("best", replicated_sharding(make_mesh()))
        assert best.step == step


def test_progress_lines_name_the_headline_metric(run):
    row = rows(run, "eval")[0]
    shown = f"size {row['magnitude']:.4f}  EMA size {row['ema_magnitude']:.4f}  on 359 images"
    assert f"eval loss {row['loss']:.4f}  {shown}" in run.printed
    assert f"step 5 (averaged weights), output size {run.best['magnitude']:.4f} and" in run.printed
    assert not {"top", "accuracy"} & set(run.printed.lower().replace("-", " ").split())


def test_eval_returns_the_tasks_metrics(run):
    keys = ["step", "weights", "examples", "loss", "magnitude", "second"]
    assert list(run.best) == keys
    assert evaluate_run(run.config, run.workdir, "best") == run.best
    first = rows(run, "eval")[0]
    assert run.best["magnitude"] == pytest.approx(first["ema_magnitude"], rel=1e-5)


def test_the_report_has_the_tasks_section(run):
    page = Page(run.workdir / "report" / "index.html")
    first, last = (rows(run, "eval")[i] for i in (0, -1))
    of = "best checkpoint, step 5, averaged weights; test split"
    cards = page.cards()
    assert cards["Output size"] == [f"{run.best['magnitude']:.4f}", of]
    assert cards["Logged size"] == [f"{first['ema_magnitude']:.4f}", of]
    assert cards["Output size at the end"] == [
        f"{last['magnitude']:.4g}",
        f"last evaluation, step 20; averaged weights {last['ema_magnitude']:.4g}; test split",
    ]
    headings = [text for where, text in page.texts if where.endswith("h2")]
    assert headings == ["Learning curves", "Brightest image", "Run"]
    labels = {text for where, text in page.texts if where.endswith("/text")}
    assert {"Loss (squared units)", "Output size (units)", "Learning rate"} <= labels
    words = " ".join(text for where, text in page.texts if not where.endswith(("pre", "style")))
    assert not [w for w in ("top-1", "accuracy", "confusion", "mistake") if w in words.lower()]


def test_a_task_without_a_section_is_shown_with_its_headline_metric(tmp_path):
    class Plain(Brightness):
        name = "plain"

    evaluation = {"step": 3, "split": "eval", "loss": 2.0, "magnitude": 0.25}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(evaluation) + "\n")
    examples = Examples({"loss": np.float32([1, 3])}, ["a", "b"], ["x"], grey)
    page = Page(write_report(tmp_path, Plain(), examples, subject=Subject(3)))
    cards = page.cards()
    assert cards["Output size"][0] == "0.25" and cards["Loss"][0] == "2"


def test_the_best_of_some_values():
    nan, top1 = float("nan"), Classify.headline
    assert MAGNITUDE.best([0.5, nan, 0.25]) == 0.25 and top1.best([0.5, nan, 0.25]) == 0.5
    assert MAGNITUDE.score(nan) == top1.score(nan) == -np.inf
    assert [Classify().ranking(name).name for name in ("top1", "loss")] == ["top1", "loss"]
    assert not Classify().ranking("loss").higher_is_better
