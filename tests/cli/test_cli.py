"""The command line from outside: what it prints, and its exit codes."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runs import MODEL, TINY, in_process, resnet_jax
from train.data.sources import open_splits
from train.run.directory import read_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("cli") / "run"
    done = resnet_jax("train", "digits", "--workdir", str(workdir), *TINY)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    first = lines.index("compiling the first step")
    labels = ["data", "classes", "images", "network", "weights", "optimiser"]
    labels += ["duration", "devices", "workdir"]
    assert [line.split()[0] for line in lines[: len(labels)]] == labels
    assert lines[len(labels) - 1] == f"workdir    {workdir}, new"
    assert lines[len(labels)].startswith("ema_decay ") and first == len(labels) + 1
    assert re.match(r"first step after \d+\.\d s", lines[first + 1])
    assert lines[first + 2].startswith("step 10/60  epoch 0.22  loss ")
    assert lines.count("compiling the first step") == 1
    assert re.match(
        r"best checkpoint: step \d+ \(averaged weights\), top-1 accuracy \d+\.\d\d % and loss "
        r"\d\.\d{4} on 359 evaluation images",
        lines[-2],
    )
    assert lines[-1] == f"report: {workdir}/report/index.html"
    assert "Traceback" not in done.stderr
    return workdir


def test_eval_ends_in_one_json_object(trained, capsys):
    figures = []
    for devices, batch_size in ((1, 256), (1, 96), (8, 100), (8, 359), (1, 1000)):
        args = ("eval", str(trained), f"--eval.batch_size={batch_size}")
        done = resnet_jax(*args) if devices == 1 else in_process(capsys, *args)
        assert done.returncode == 0, done.stderr
        figures.append(json.loads(done.stdout.splitlines()[-1]))
    for figure in figures:
        assert figure["examples"] == 359
        assert figure["top1"] == figures[0]["top1"] and figure["top5"] == figures[0]["top5"]
        assert figure["loss"] == pytest.approx(figures[0]["loss"], rel=1e-5)


def test_eval_of_a_named_checkpoint(trained, capsys):
    last = json.loads(in_process(capsys, "eval", str(trained), "--checkpoint", "last").stdout)
    assert last["step"] == 60
    named = in_process(capsys, "eval", str(trained), "--checkpoint", "55")
    assert json.loads(named.stdout)["step"] == 55
    done = in_process(capsys, "eval", str(trained), "--checkpoint", "7")
    assert done.returncode == 2
    assert re.search(r"error: checkpoint '7': choose best, last or one of .*55, 60", done.stderr)


def test_eval_of_a_run_whose_checkpoints_are_all_damaged(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    for record in workdir.glob("checkpoints/*/progress/metadata"):
        record.write_text("{")
    done = in_process(capsys, "eval", str(workdir))
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(
        r"error: checkpoint \d+ in .*/checkpoints is damaged \(progress/metadata: not readable "
        r"as JSON\); no other one is whole. Put a copy of one back, or move them away and train "
        r"again\n",
        done.stderr,
    )


def test_predict(trained, tmp_path, capsys):
    """The same five classes that the network gives in Python, as a table and as CSV."""
    source = open_splits(read_config(trained).data).eval
    files = []
    for i in range(3):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(source[i].image[..., 0]).save(files[-1])
    table = tmp_path / "table.csv"
    done = in_process(capsys, "predict", str(trained), *files, "--csv", str(table))
    assert done.returncode == 0, done.stderr
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["image"], r["rank"]) for r in rows] == [
        (f, str(k)) for f in files for k in range(1, 6)
    ]
    for name in files:
        p = [float(r["probability"]) for r in rows if r["image"] == name]
        assert p == sorted(p, reverse=True) and 0 < sum(p) <= 1 + 1e-5
    sizes = {len({r["class"] for r in rows if r["image"] == name}) for name in files}
    assert sizes == {5}
    assert done.stdout.count("%") == 15


def test_resuming_is_reported(trained):
    done = resnet_jax("train", "digits", "--workdir", str(trained), *TINY)
    assert done.returncode == 0
    assert "all 60 steps are done" in done.stdout
    assert f"workdir    {trained}, resumes from the checkpoint of step 60" in done.stdout
    assert "compiling" not in done.stdout


ERRORS = {
    "command": (["trian"], r"unknown command 'trian': did you mean train\? choose from"),
    "recipe": (["train", "digit"], r"unknown recipe 'digit': did you mean digits"),
    "model": (["train", "--model.name", "resnet51"], r"unknown model 'resnet51'.*resnet50"),
    "field": (["train", "--optim.lrr", "1"], r"--optim.lrr.*--optim.lr "),
    "choice": (
        ["train", "--optim.name", "adam"],
        r"--optim.name 'adam': needs sgd, adamw, rmsprop, lars or",
    ),
    "value": (["train", "--optim.lr", "-1"], r"optim.lr -1.0: must be positive"),
    "type": (["train", "--seed", "x"], r"--seed.*'x'"),
    "duration": (["train", "--duration", "3"], r"duration '3' is not a duration: write '3ep'"),
    "no data set": (
        ["train", "digits", "--data.name", "imagenot"],
        r"data.name 'imagenot': did you mean imagenet.*choose csv, digits",
    ),
    "no folder": (["train", "folder", "--data.dir", "/nowhere"], r"'/nowhere': no such folder"),
    "no run": (["eval", "/nowhere"], r"'/nowhere' is not a run directory: it has no config.json"),
    "no images": (["predict", "{run}"], r"no image given"),
    "missing image": (["predict", "{run}", "/nowhere.jpg"], r"/nowhere.jpg: No such file"),
    "no image": (["predict", "{run}", "{run}/config.json"], r"config.json: not an image"),
    "weightless": (["predict", "resnet50", "x.jpg"], r"'resnet50' is a network without weights"),
    "two runs": (["eval", "{run}", "last"], r"eval takes one run directory, not 2: 'last' is too"),
    "no run named": (["eval"], r"the run directory is missing"),
    "another run": (
        ["train", "digits", "--workdir", "{run}", *TINY, "--seed", "9"],
        r"seed: 0 -> 9",
    ),
    "warmup": (["train", "--optim.warmup", "40ep"], r"optim.warmup '40ep' is 899 steps"),
    "no option of eval": (["eval", "{run}", "--optim.lr", "3"], r"eval cannot change optim.lr: "),
    "no photos named": (["train", "folder"], r"data.dir is not set: data.name 'folder' needs"),
    "no match": (["models", "alexnet*"], r"no model matches 'alexnet\*'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_message_and_exit_code_2(case, trained, capsys):
    args, message = ERRORS[case]
    done = in_process(capsys, *(arg.format(run=trained) for arg in args))
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.match(f"error: .*{message}", done.stderr, re.DOTALL), done.stderr
    assert not set("│╭─") & set(done.stderr + done.stdout)
    assert "Traceback" not in done.stderr


def test_devices_that_do_not_divide(tmp_path):
    args = ("train", "digits", "--workdir", str(tmp_path / "run"), *MODEL, "--batch_size", "50")
    done = resnet_jax(*args, devices=8)
    assert done.returncode == 2
    assert "batch_size 50: does not divide over 8 devices" in done.stderr


def test_failure_is_exit_code_1(tmp_path):
    options = (*TINY, "--optim.lr", "1e9", "--checkpoint.every", "1st")
    done = resnet_jax("train", "digits", "--workdir", str(tmp_path / "run"), *options)
    assert done.returncode == 1
    assert re.search(r"error: \w+ is not finite at step \d+ \(learning rate", done.stderr)
    assert "Traceback" not in done.stderr


def test_help_and_no_command():
    assert resnet_jax("--help").returncode == 0
    empty = resnet_jax()
    assert empty.returncode == 2 and empty.stdout.startswith("usage: resnet-jax COMMAND")


def test_npz_from_the_command_line(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.integers(0, 256, (16, 8, 8), np.uint8) for s in ("train", "test")}
    labels = {f"y_{s}": rng.integers(0, 3, 16) for s in ("train", "test")}
    labels["y_train"][:3] = [0, 1, 2]
    np.savez(tmp_path / "data.npz", **arrays, **labels)
    options = (*TINY, "--data.name", "npz", "--data.dir", str(tmp_path / "data.npz"))
    options += ("--duration", "2st", "--batch_size", "8")
    done = resnet_jax("train", "digits", "--workdir", str(tmp_path / "run"), *options)
    assert done.returncode == 0, done.stderr
    assert "on 16 images" in done.stdout
