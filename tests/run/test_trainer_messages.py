"""What a training says at its end, without a training."""

from types import SimpleNamespace
from typing import Any

import pytest

from train.distributed.processes import CoordinatedExit
from train.run.trainer import Trainer


def trainer(step: int, total: int, bad: tuple[int, ...] = ()) -> tuple[Any, list[str]]:
    """One that is after `step`, and what it says."""
    said: list[str] = []
    found: Any = object.__new__(Trainer)
    source = SimpleNamespace(name=lambda i: f"{i}.png")
    found.run = SimpleNamespace(total_steps=total, splits=SimpleNamespace(train=source))
    found.step, found.bad, found._saved = step, set(bad), step
    found.checkpoints = SimpleNamespace(wait=lambda: None)
    found.processes = SimpleNamespace(barrier=lambda: None)
    found.display = SimpleNamespace(say=said.append)
    return found, said


def test_a_stop_in_the_last_evaluation():
    found, _ = trainer(12_000, 12_000)
    with pytest.raises(CoordinatedExit) as caught:
        found._stop("SIGTERM")
    assert str(caught.value) == (
        "stopped by SIGTERM in the last evaluation: all 12,000 steps are done and saved; the same "
        "command evaluates them and writes the report"
    )


def test_a_stop_before_it():
    found, _ = trainer(1_500, 12_000)
    with pytest.raises(
        CoordinatedExit, match=r"^stopped by SIGINT after step 1,500 of 12,000, saved; "
    ):
        found._stop("SIGINT")


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ((3,), "skipped 1 unreadable training image: 3.png"),
        ((3, 4), "skipped 2 unreadable training images: 3.png, 4.png"),
        ((), None),
    ],
)
def test_bad_images_are_counted(bad, line):
    found, said = trainer(1, 1, bad)
    found._warn_of_bad()
    assert said == ([line] if line else [])
