"""`predict` is one command: the same options for a run, for a file of weights and for timm's."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax import save_weights
from tests.resnet_jax.test_convert import random_variables
from tests.runs import tiny
from train.__main__ import main
from train.checkpoint.weights import parse_timm_name
from train.cli.predict import PredictArgs
from train.run.fit import fit

NAME = "resnet8_cifar"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    save_weights(random_variables(NAME, 7), path, NAME)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    fit(tiny(duration="2st"), workdir, quiet=True)
    return workdir


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Of 50 x 40 pixels."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    return tmp_path / "0.png"


def printed(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The help of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_one_help_for_all_three_ways(run, capsys, monkeypatch):
    """The options are the same; their defaults are the run's, or usual for the network."""
    monkeypatch.setenv("COLUMNS", "100")  # else a line of 80 is broken before its default
    pages = [printed(capsys, "predict", *what, "--help") for what in ([], [run], [NAME])]
    names = [re.findall(r"^  --([\w.]+)", page, re.MULTILINE) for page in pages]
    assert names[0] == names[1] == names[2]
    own = ["weights", "checkpoint", "classes", "csv"]
    assert names[0][:4] == own and len(names[0]) == len(own) + 9
    for page in pages:
        assert page.startswith("usage: resnet-jax predict DIR IMAGE... [options] ")
        assert "predict NAME IMAGE... --weights FILE [options]" in page
    sizes = [re.search(r"--data.image_size .*\[(\d+)\]", page)[1] for page in pages[1:]]
    assert not re.search(r"--data.image_size .*\[", pages[0])  # unknown without a run
    assert sizes == ["8", "32"]
    assert list(PredictArgs.__dataclass_fields__) == ["config", *own]


@pytest.mark.parametrize(
    ("old", "now"),
    [
        (("--size", "64"), "--data.image_size 64"),
        (("--crop_fraction", "0.9"), "--eval.crop_fraction 0.9"),
        (("--interpolation", "bicubic"), "--eval.interpolation bicubic"),
        (("--mean", "0.5"), "--data.mean 0.5"),
        (("--std", "0.5"), "--data.std 0.5"),
    ],
)
def test_the_old_spellings_name_the_new_ones(old, now, weights, run, image, capsys):
    for what in ([run, image], [NAME, image, "--weights", weights]):
        assert main([str(arg) for arg in ["predict", *what, *old]]) == 2
        assert f"unknown option {old[0]}: did you mean {now}? " in capsys.readouterr().err


def test_options_that_belong_to_the_other_kind(weights, run, image, capsys):
    for args, message in {
        (run, "--weights", weights): (
            f"error: --weights {weights}: {str(run)!r} is a run, which has its own weights; "
            "choose them with --checkpoint\n"
        ),
        (NAME, "--weights", weights, "--checkpoint", "last"): (
            f"error: --checkpoint last: {NAME!r} is a network, not a run; name the file of "
            "its weights with --weights\n"
        ),
        (NAME, "--weights", weights, "--optim.lr", "1"): (
            "error: predict cannot change optim.lr: 0.1 -> 1.0; it can change data.*, eval.*, "
            "precision\n"
        ),
    }.items():
        assert main(["predict", str(args[0]), str(image), *map(str, args[1:])]) == 2
        assert capsys.readouterr().err == message


def test_limits_hold_whatever_the_weights_are(weights, run, image, capsys):
    """The error message advises `--data.max_pixels`, and no warning says it has no effect."""
    for what in ([run, image], [NAME, image, "--weights", weights]):
        command = [str(arg) for arg in ["predict", *what, "--data.max_pixels"]]
        assert main([*command, "1999"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {image}: 50x40 pixels") and err.count("\n") == 1
        assert main([*command, "2000"]) == 0
        assert capsys.readouterr().err == ""


def test_class_names_and_preprocessing_of_a_run(run, image, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    options = ["--classes", tmp_path / "names.txt", "--csv", tmp_path / "t.csv", "--data.mean=0.5"]
    assert main([str(arg) for arg in ["predict", run, image, *options]]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("images: 8 pixels, crop_fraction 1, bilinear, mean 0.5, std 0.376\n")
    with (tmp_path / "t.csv").open() as file:
        found = {row["class"] for row in csv.DictReader(file)}
    assert len(found) == 5 and found <= set("abcdefghij")
    assert err == f"wrote 5 rows to {tmp_path / 't.csv'}\n"


def test_what_is_a_published_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_timm_name("resnet50.a1_in1k") == ("resnet50", "a1_in1k")
    for other in ("resnet50", "resnet50.", "resnet51.a1_in1k", "resnet50.pth", "resnet50.pth.tar"):
        assert parse_timm_name(other) is None, other
    assert (
        parse_timm_name("resnet18.safetensors") is None
        and parse_timm_name("runs/resnet18.a1") is None
    )
    (tmp_path / "resnet50.mine" / "checkpoints").mkdir(parents=True)
    assert parse_timm_name("resnet50.mine") is None  # a run's directory
