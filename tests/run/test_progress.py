"""Progress output: plain lines without a terminal, a bar and a status line in a terminal."""

import io

import numpy as np
import pytest
from rich.console import Console

import train.run.progress
from train.learn.tasks import Classify
from train.run.eta import Remaining
from train.run.metrics import Window
from train.run.progress import Display, describe

TRAIN = {"split": "train", "step": 50, "epoch": 1.5, "loss": 0.25, "top1": 0.5, "lr": 0.1}
TRAIN |= {"images_per_sec": 1234.5, "input_wait": 0.125}
EVAL = {"split": "eval", "step": 50, "epoch": 1.5, "loss": 0.5, "top1": 0.75, "examples": 359}
LINE = "epoch 1.50  loss 0.2500  top-1 50.00 %  lr 0.1  1,234 images/s  input wait 12 %"


def test_lines():
    assert describe(TRAIN, Classify()) == LINE
    expected = (
        "epoch 1.50  eval loss 0.5000  top-1 75.00 %  EMA top-1 80.00 %  on 359 images  skipped 2"
    )
    assert describe({**EVAL, "ema_top1": 0.8, "skipped": 2}, Classify()) == expected


def test_without_a_terminal(capsys):
    display = Display(100, Classify())
    display.begin("compiling the first step", 0)
    display.advance(50)
    display.row(TRAIN)
    display.row(EVAL)
    display.say("[bold]:cat:")
    display.close()
    assert capsys.readouterr().out.splitlines() == [
        "compiling the first step",
        f"step 50/100  {LINE}",
        "step 50/100  epoch 1.50  eval loss 0.5000  top-1 75.00 %  on 359 images",
        "[bold]:cat:",
    ]


def test_quiet(capsys):
    display = Display(100, Classify(), quiet=True)
    display.row(EVAL)
    display.close()
    assert capsys.readouterr().out == ""


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal, as text with its control sequences."""
    screen = io.StringIO()

    def console(**options):
        return Console(file=screen, force_terminal=True, width=100, **options)

    monkeypatch.setattr(train.run.progress, "Console", console)
    return screen


def test_in_a_terminal(screen):
    display = Display(100, Classify())
    display.say("first")
    assert "ETA" not in screen.getvalue()
    display.begin("compiling the first step", 0)
    display.advance(50)
    display.row(TRAIN)
    display.row(EVAL)
    display.close()
    assert "50/100" in screen.getvalue() and "ETA" in screen.getvalue()
    assert LINE in screen.getvalue() and "eval loss" in screen.getvalue()


def test_the_compiling_message_disappears_after_the_first_step(screen):
    """It is not shown at the end either, nor by a run whose steps were all done before."""
    display = Display(100, Classify())
    assert "compiling" not in screen.getvalue()
    display.begin("compiling the first step", 0)
    display._live.refresh()
    assert "compiling the first step" in screen.getvalue()
    display.advance(1)
    screen.truncate(0)
    display._live.refresh()
    assert "1/100" in screen.getvalue() and "compiling" not in screen.getvalue()
    display.begin("evaluating the best checkpoint", 100)
    display.close()
    last = screen.getvalue().rpartition("100/100")[2]
    assert last and "evaluating" not in last and "compiling" not in last


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_end_is_estimated_from_finished_steps():
    """Five steps are dispatched at once, and each takes 3 s: 282 steps take 14 minutes, not 7 s."""
    clock = Clock()
    remaining = Remaining(282, clock)
    remaining.finished(1)
    for _ in range(4):  # dispatched: the second step is not finished yet
        clock.now += 0.02
        remaining.finished(1)
    assert remaining.seconds() is None and str(remaining) == "-:--:--"
    clock.now = 1000.0
    for step in range(2, 8):
        clock.now += 3
        remaining.finished(step)
        assert remaining.seconds() == pytest.approx(3 * (282 - step))
    assert str(remaining) == "0:13:45"
    clock.now += 1  # it counts down within a step, and not below it
    assert remaining.seconds() == pytest.approx(3 * 275 - 1)
    clock.now += 1000
    assert remaining.seconds() == pytest.approx(3 * 274)


def test_steps_that_finish_in_chunks():
    clock = Clock()
    remaining = Remaining(1000, clock)
    for step in (1, 101, 201):
        remaining.finished(step)
        clock.now += 0.5
    assert remaining.seconds() == pytest.approx(799 * 0.5 / 100 - 0.005)
    assert str(Remaining(0, clock)) == "-:--:--"


def test_evaluations_are_part_of_the_estimate():
    """100 steps of 1 s and 50 s of evaluation, ten times: the speed of the steps stays 1 s."""
    clock = Clock()
    remaining = Remaining(1000, clock)
    expected = []
    for step in range(301):
        remaining.finished(step)
        if step and step % 100 == 0:
            seconds = 80 if step == 100 else 50  # the first one is compiled
            clock.now += seconds
            remaining.pause(step, seconds)
            expected.append(remaining.seconds())
        clock.now += 1
    assert expected == pytest.approx([900 * 1.8, 800 * 1.5, 700 * 1.5])


def test_the_estimate_follows_a_change_of_speed():
    clock = Clock()
    remaining = Remaining(10_000, clock)
    for step in range(1000):
        remaining.finished(step)
        clock.now += 1 if step < 300 else 2
    assert remaining.seconds() == pytest.approx(9001 * 2, rel=0.01)


def test_the_window_knows_the_last_finished_step():
    """With four queued steps, a step is known to be finished when the fourth after it is added."""
    window = Window()
    known = []
    for step in range(1, 9):
        window.add(step, {"loss": np.float32(1), "count": np.float32(1)})
        known.append(window.finished)
    assert known == [0, 0, 0, 0, 1, 2, 3, 4]
    window.fetch()
    assert window.finished == 8
    window.add(9, {"loss": np.ones(10), "count": np.ones(10)}, 10)
    window.fetch()
    assert window.finished == 18
