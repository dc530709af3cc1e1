"""The learning-rate range test: its curve, what it reads from it, and the command."""

import csv
import math
import re

import numpy as np
import pytest

from tests.runs import MODEL, in_process
from train.__main__ import main
from train.studies.lr_find import Curve, describe, has_diverged, smooth, suggest

RATES = np.geomspace(1e-4, 10, 101)  # 20 steps in a factor of 10


def test_the_smoothed_loss_is_a_weighted_mean():
    losses = [3.0, 1.0, 2.0, 5.0]
    weights = 0.9 ** np.arange(3, -1, -1)
    assert smooth(losses)[-1] == pytest.approx((weights * losses).sum() / weights.sum())


def curve(losses: np.ndarray, diverged: bool = False) -> Curve:
    return Curve(RATES[: len(losses)], losses, diverged)


def test_the_readings_of_a_curve(monkeypatch):
    """Without smoothing: a sigmoid that falls fastest at 0.01, and a wall after 1."""
    monkeypatch.setattr("train.studies.lr_find.SMOOTHING", 0.0)
    x = np.log10(RATES)
    losses = 2 / (1 + np.exp(4 * (x + 2))) + np.where(x > 0, 50 * x, -0.01 * x)
    monkeypatch.setattr(Curve, "smoothed", property(lambda self: self.losses))
    found = suggest(curve(losses))
    assert found.lowest_loss == pytest.approx(1.0)
    assert found.steepest == pytest.approx(0.01)
    assert found.suggested == 0.1
    lines = describe(curve(losses, True), 200)
    assert lines[0] == "the test ended after step 101 of 200: the loss diverged at optim.lr 10"
    assert "lowest loss at optim.lr 1, steepest descent at 0.01; suggested: a tenth of" in lines[1]


def test_a_loss_that_still_falls_is_reported():
    lines = describe(curve(np.linspace(2, 1, 101)), 101)
    assert lines[-1] == "the loss was still falling at the end: try a higher --highest"


def test_divergence():
    flat = [2.0] * 20
    assert not has_diverged([]) and not has_diverged(flat)
    assert not has_diverged([*flat, 20.0])  # smoothed: about 4
    assert has_diverged([*flat, 80.0]) and has_diverged([*flat, math.inf])
    assert has_diverged([*flat, math.nan])


def test_the_command(tmp_path, capsys):
    """The rate of every step is the one in the table, and the last line can be typed."""
    options = ("--steps", "24", "--lowest", "1e-4", "--highest", "1e4", "--folder", str(tmp_path))
    done = in_process(capsys, "lr-find", "digits", *MODEL, "--batch_size", "32", *options)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"--optim\.lr [\d.e+-]+", done.stdout.splitlines()[-1])
    rows = list(csv.DictReader((tmp_path / "lr-find.csv").open()))
    losses = [float(row["loss"]) for row in rows]
    assert losses[0] == pytest.approx(math.log(10), rel=0.1)
    assert "the loss diverged" in done.stdout and len(rows) < 24
    expected = np.geomspace(1e-4, 1e4, 24)[: len(rows)]
    np.testing.assert_allclose([float(row["lr"]) for row in rows], expected, rtol=1e-6)
    assert b"<svg" in (tmp_path / "lr-find.svg").read_bytes()


@pytest.mark.parametrize(
    "args, message",
    [
        (["--steps", "3"], "--steps 3: must be at least 10"),
        (["--lowest", "0"], "--lowest 0.0: must be positive"),
        (["--highest", "1e-9"], "--highest 1e-09: must be finite, and above --lowest 1e-05"),
    ],
)
def test_mistakes(args, message, capsys):
    assert main(["lr-find", "digits", *args]) == 2
    assert message in capsys.readouterr().err
    assert main(["lr-find", *args]) == 2
    assert "the recipe is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--data.mean", "measure"),
        ("--data.whiten", "zca"),
        ("--mix.mixup", "0.2", "--mix.off", "5ep"),  # longer than the test
        ("--augment.size_start", "4", "--augment.size_step", "2"),  # grows between epochs
    ],
)
def test_options_of_a_longer_run(options, tmp_path, capsys):
    args = (*MODEL, "--batch_size", "32", "--steps", "10", "--folder", str(tmp_path))
    done = in_process(capsys, "lr-find", "digits", *args, *options)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"--optim\.lr [\d.e+-]+", done.stdout.splitlines()[-1])
