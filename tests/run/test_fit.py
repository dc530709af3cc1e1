"""`fit`: what it writes, how it resumes, and how it stops."""

import json
import math
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train.run.checks
import train.run.trainer
from tests.runs import tiny
from train.checkpoint.manager import Checkpoints
from train.config import ConfigError, DataConfig, ModelConfig, OptimConfig, RunError
from train.data.order import example_indices
from train.distributed.mesh import make_mesh, replicated_sharding
from train.distributed.signals import StopSignal
from train.inference.evaluate import evaluate_run
from train.learn.tasks import Classify
from train.report.metrics_file import read_metrics
from train.run.directory import read_config
from train.run.fit import fit
from train.run.parts import Run

TIMES = ("seconds", "images_per_sec", "input_wait")


def content(workdir: Path) -> tuple[list[dict], list[bytes]]:
    """The rows of a run without their times, and every array of its last checkpoint."""
    import jax

    config = read_config(workdir)
    restored = Checkpoints(workdir / "checkpoints", config.checkpoint, Classify()).restore(
        Run(config).new_state()
    )
    rows = [
        {key: value for key, value in row.items() if key not in TIMES}
        for row in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    ]
    return rows, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(restored.state)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("finished")
    fit(tiny(ema_decay=0.9), workdir, quiet=True)
    return workdir


def test_what_a_run_leaves(finished):
    assert {p.name for p in finished.iterdir()} == {
        *("config.json", "metrics.jsonl", "checkpoints", "tensorboard", "report")
    }
    assert read_config(finished) == tiny(ema_decay=0.9)
    extras = json.loads((finished / "config.json").read_text())
    assert extras["class_names"] == [str(i) for i in range(10)]
    assert extras["versions"]["jax"] and extras["devices"].startswith("8 x ")
    rows = read_metrics(finished / "metrics.jsonl")
    assert [r["step"] for r in rows if r["split"] == "train"] == [10, 20, 30, 40, 50, 60]
    assert [r["step"] for r in rows if r["split"] == "eval"] == [20, 40, 60]
    assert {r["examples"] for r in rows if r["split"] == "eval"} == {359}
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.03
    first = rows[0]
    assert first["epoch"] == pytest.approx(10 * 32 / 1438)
    assert first["lr"] == pytest.approx(0.2 * (1 + np.cos(np.pi * 9 / 60)) / 2)
    page = (finished / "report" / "index.html").read_text()
    assert "resnet8_cifar" in page


def test_keeps_the_newest_and_the_best(finished):
    rows = [r for r in read_metrics(finished / "metrics.jsonl") if r["split"] == "eval"]
    best = max(rows, key=lambda r: r["ema_top1"])["step"]
    kept = {int(p.name) for p in (finished / "checkpoints").iterdir()}
    assert kept == {55, 60, best}


def test_returns_the_best(tmp_path):
    config = tiny(duration="20st", eval=replace(tiny().eval, every="10st"))
    row = fit(config, tmp_path, quiet=True)
    evals = [r for r in read_metrics(tmp_path / "metrics.jsonl") if r["split"] == "eval"]
    best = max(evals, key=lambda r: (r["top1"], r["step"]))
    assert (row["step"], row["weights"], row["examples"]) == (best["step"], "raw", 359)
    assert row["top1"] == best["top1"] and row["loss"] == pytest.approx(best["loss"], rel=1e-6)


def stopping_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Sends this process a signal in the middle of a step."""
    original = train.run.trainer.Trainer._advance

    def advance(self, dispatches):
        original(self, dispatches)
        if self.step == step:
            os.kill(os.getpid(), number)
            time.sleep(0.05)

    monkeypatch.setattr(train.run.trainer.Trainer, "_advance", advance)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_resumes_exactly(finished, tmp_path, monkeypatch, number):
    config = tiny(ema_decay=0.9)
    with monkeypatch.context() as patch:
        stopping_at(patch, 33, number)
        with pytest.raises(RunError, match=rf"stopped by {number.name} after step 33 of 60, saved"):
            fit(config, tmp_path, quiet=True)
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    fit(config, tmp_path, quiet=True)
    assert content(tmp_path) == content(finished)


def test_a_signal_before_the_first_step(tmp_path):
    stop = StopSignal()
    with stop.install():
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 60
        while not stop.signal and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(RunError, match="stopped by SIGINT after step 0 of 60, nothing to save"):
            fit(tiny(), tmp_path, quiet=True, stop=stop)
    row = fit(tiny(duration="60st"), tmp_path, quiet=True)
    assert row["examples"] == 359


def test_changed_data_are_not_another_day_of_the_same_run(tmp_path, capsys):
    root = photos(tmp_path / "photos", count=4)
    data = DataConfig(name="folder", dir=str(root), eval_split="val", image_size=16, threads=0)
    config = tiny(data=data, batch_size=8, duration="4st")
    fit(config, tmp_path / "run", quiet=True)
    extra = root / "train" / "red" / "more.png"
    extra.write_bytes((root / "train" / "red" / "00.png").read_bytes())
    with pytest.raises(ConfigError, match=r"have changed: 1 added \(train/red/more\.png\)\."):
        fit(config, tmp_path / "run", quiet=True)
    # another folder of classes is evaluated, all of it
    other = replace(config, data=replace(data, dir=str(root / "train")))
    row = evaluate_run(other, tmp_path / "run", "best")
    assert row["examples"] == 9
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("warning: evaluating all 9 images of ")
    assert said[1].startswith("warning: 8 of 9 evaluated images were trained on: train/blue/00.png")
    extra.unlink()
    for split in ("train", "val"):
        (root / split / "blue").rename(root / split / "violet")
    for again in (
        lambda: fit(config, tmp_path / "run", quiet=True),
        lambda: evaluate_run(config, tmp_path / "run", "best"),
    ):
        with pytest.raises(ConfigError, match=r"class names were \['blue', 'red'\].*'violet'"):
            again()


def test_a_finished_run_is_left_alone(finished):
    before = (finished / "metrics.jsonl").read_bytes()
    row = fit(tiny(ema_decay=0.9), finished, quiet=True)
    assert (finished / "metrics.jsonl").read_bytes() == before
    assert row["weights"] == "ema"


def test_another_run_is_refused_and_what_differs_is_said(finished):
    other = tiny(ema_decay=0.9, seed=7, optim=OptimConfig(lr=0.4, lr_batch=32))
    with pytest.raises(ConfigError, match=r"(?s)another run.*seed: 0 -> 7.*optim.lr: 0.2 -> 0.4"):
        fit(other, finished, quiet=True)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after 33 of its 60 steps."""
    workdir = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stopping_at(patch, 33, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 33 of 60, saved"):
            fit(tiny(ema_decay=0.9), workdir, quiet=True)
    return workdir


LIMITS = {"max_pixels": 100, "max_image_bytes": 10**5, "on_bad_image": "skip"}
READING = {
    "threads": {"threads": 2, "prefetch": 3, "retries": 0, "stall_seconds": 5.0, **LIMITS},
    "processes": {"workers": 1},
    "on the devices": {"resident": "on"},
}


@pytest.mark.parametrize("how", READING)
def test_a_run_that_is_read_otherwise_from_a_resume_on_is_the_same(
    stopped, finished, tmp_path, how
):
    """27 steps are left to read in the new way."""
    workdir = shutil.copytree(stopped, tmp_path / "run")
    data = replace(tiny().data, **READING[how])
    fit(tiny(ema_decay=0.9, data=data), workdir, quiet=True)
    assert content(workdir) == content(finished)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = tiny(optim=OptimConfig(lr=1e6, lr_batch=16), duration="200st")
    with pytest.raises(RunError) as caught:
        fit(config, tmp_path, quiet=True)
    message = str(caught.value)
    assert "not finite at step" in message and "learning rate" in message
    steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    last = f"the last good checkpoint is step {max(steps)}" if steps else "no checkpoint yet"
    assert last in message and "may help, in a new --workdir" in message
    text = (tmp_path / "anomaly.json").read_text()
    told = json.loads(text)
    rate = 1e6 * 2 * (1 + math.cos(math.pi * (told["step"] - 1) / 200)) / 2
    assert told["learning_rate"] == pytest.approx(rate, rel=1e-6)
    assert f"learning rate {rate:.4g}: --optim.lr 1e+06 scaled" in message
    assert told["what"] in ("loss", "grad_norm") and told["value"] in ("nan", "inf", "-inf")
    assert f"{told['what']}: {told['value']})" in message and told["before"] == []
    names = [
        f'  {{"index": {e["index"]}, "name": "train[{e["index"]}]"}}' for e in told["examples"]
    ]
    assert len(set(names)) == 32 and ",\n".join(names) in text and len(text.splitlines()) == 41
    assert all(np.isfinite(row["loss"]) for row in read_metrics(tmp_path / "metrics.jsonl"))


def photos(root: Path, count: int = 24) -> Path:
    """Two classes that can be told apart: red and blue."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for channel, name in ((0, "red"), (2, "blue")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 100, (16, 16, 3), np.uint8)
                image[..., channel] += 150
                Image.fromarray(image).save(root / split / name / f"{i:02}.png")
    return root


def test_a_bad_image_ends_the_run_and_loses_nothing(tmp_path):
    root = photos(tmp_path / "photos")
    bad = root / "train" / "blue" / "05.png"
    bad.write_text("no image at all")
    data = DataConfig(name="folder", dir=str(root), eval_split="val", image_size=16, threads=0)
    config = tiny(data=data, checkpoint=replace(tiny().checkpoint, every=""), batch_size=8)
    workdir = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"train/blue/05.png: not an image.*skip") as caught:
        fit(config, workdir, quiet=True)
    assert 5 in example_indices(48, 0, 8, step=1)  # the second batch of seed 0 has it
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["1"]
    assert "What was trained is saved, up to step 1" in str(caught.value)

    # the same run goes on without the file
    skipping = replace(config, data=replace(data, on_bad_image="skip"))
    row = fit(skipping, workdir, quiet=True)
    assert row["examples"] == 48 and row["top1"] == 1.0
    train_rows = [r for r in read_metrics(workdir / "metrics.jsonl") if "lr" in r]
    assert train_rows[-1]["skipped"] == 1


def test_an_evaluation_that_was_cut_short_is_made_up_for(tmp_path, monkeypatch):
    """By a file that became unreadable after the check at the start."""
    monkeypatch.setattr(train.run.checks, "check_images", lambda *args, **kwargs: "")
    root = photos(tmp_path / "photos")
    bad = root / "val" / "red" / "03.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    data = DataConfig(name="folder", dir=str(root), eval_split="val", image_size=16, threads=0)
    config = tiny(data=data, batch_size=8, duration="40st")
    with pytest.raises(ConfigError, match=r"val/red/03.png"):
        fit(config, tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "checkpoints" / "20").is_dir()
    bad.write_bytes(good)
    fit(config, tmp_path / "run", quiet=True)
    fit(config, tmp_path / "undisturbed", quiet=True)
    assert content(tmp_path / "run") == content(tmp_path / "undisturbed")


def test_unreadable_evaluation_images_are_counted(tmp_path):
    root = photos(tmp_path / "photos")
    (root / "val" / "red" / "03.png").write_bytes(b"")
    data = DataConfig(name="folder", dir=str(root), eval_split="val", image_size=16, threads=0)
    data = replace(data, on_bad_image="skip")
    row = fit(tiny(data=data, batch_size=8, duration="10st"), tmp_path / "run", quiet=True)
    assert (row["examples"], row["skipped"]) == (47, 1)


def test_what_the_devices_do_not_divide_fails_before_compilation(tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size 30: does not divide over 8 devices.*24"):
        fit(tiny(batch_size=30), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        fit(tiny(), tmp_path / "file", quiet=True)
    with pytest.raises(ConfigError, match="Not a directory"):
        fit(tiny(), tmp_path / "file" / "below", quiet=True)


def test_signals_reach_only_the_main_thread_of_a_run(tmp_path):
    """A run in another thread has no handlers to set, and trains all the same."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            fit(tiny(duration="5st"), tmp_path, quiet=True)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
    assert Checkpoints(tmp_path / "checkpoints", tiny().checkpoint, Classify()).steps() == [5]


def test_a_network_without_batch_norm(tmp_path, monkeypatch):
    """It has no statistics to keep, to average or to save."""
    model = ModelConfig(name="resnet8_cifar", depths=(1, 1), width=8, norm="group", norm_groups=4)
    config = tiny(duration="10st", model=model, ema_decay=0.9)
    with monkeypatch.context() as patch:
        stopping_at(patch, 4, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 4 of 10, saved"):
            fit(config, tmp_path, quiet=True)
    fit(config, tmp_path, quiet=True)  # resumes
    weights = Checkpoints(tmp_path / "checkpoints", config.checkpoint, Classify())
    variables = weights.restore_weights("last", replicated_sharding(make_mesh())).variables
    assert variables["batch_stats"] == {} and variables["params"]["head"]["bias"].shape == (10,)
    assert weights.steps()[-1] == 10
