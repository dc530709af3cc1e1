"""What a person sees: plain lines without a terminal, a bar and a status line in one."""

import io

import pytest
from rich.console import Console

import train.progress
from train.progress import Display, describe

TRAIN = {"split": "train", "step": 50, "epoch": 1.5, "loss": 0.25, "top1": 0.5, "lr": 0.1}
TRAIN |= {"images_per_sec": 1234.5, "input_wait": 0.125}
EVAL = {"split": "eval", "step": 50, "epoch": 1.5, "loss": 0.5, "top1": 0.75, "examples": 359}
LINE = "epoch 1.50  loss 0.2500  top-1 50.00 %  lr 0.1  1234 images/s  input wait 12 %"


def test_lines():
    assert describe(TRAIN) == LINE
    expected = "epoch 1.50  eval loss 0.5000  top-1 75.00 %  EMA top-1 80.00 %  of 359  left out 2"
    assert describe({**EVAL, "ema_top1": 0.8, "skipped": 2}) == expected


def test_without_a_terminal(capsys):
    display = Display(100)
    display.advance(50)
    display.row(TRAIN)
    display.row(EVAL)
    display.say("[bold]:cat:")
    display.close()
    assert capsys.readouterr().out.splitlines() == [
        "compiling the first step",
        f"step 50/100  {LINE}",
        "step 50/100  epoch 1.50  eval loss 0.5000  top-1 75.00 %  of 359",
        "[bold]:cat:",
    ]


def test_quiet(capsys):
    display = Display(100, quiet=True)
    display.row(EVAL)
    display.close()
    assert capsys.readouterr().out == ""


def test_in_a_terminal(monkeypatch: pytest.MonkeyPatch):
    screen = io.StringIO()

    def console(**options):
        return Console(file=screen, force_terminal=True, width=100, **options)

    monkeypatch.setattr(train.progress, "Console", console)
    display = Display(100)
    display.advance(50)
    display.row(TRAIN)
    display.row(EVAL)
    display.close()
    assert "50/100" in screen.getvalue() and "ETA" in screen.getvalue()
    assert LINE in screen.getvalue() and "eval loss" in screen.getvalue()
