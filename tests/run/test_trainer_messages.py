"""Messages at the end of a training, without a training."""

from types import SimpleNamespace
from typing import Any

import pytest

from train.distributed.processes import CoordinatedExit
from train.run.trainer import Trainer
from train.run.unreadable import Unreadable


def trainer(step: int, total: int) -> Any:
    """A trainer after `step` steps, without a run."""
    found: Any = object.__new__(Trainer)
    found.run = SimpleNamespace(total_steps=total)
    found.step = found._saved = step
    found.checkpoints = SimpleNamespace(wait=lambda: None)
    found.processes = SimpleNamespace(barrier=lambda: None)
    return found


def test_a_stop_in_the_last_evaluation():
    found = trainer(12_000, 12_000)
    with pytest.raises(CoordinatedExit) as caught:
        found._stop("SIGTERM")
    assert str(caught.value) == (
        "stopped by SIGTERM in the last evaluation: all 12,000 steps are done and saved; the same "
        "command evaluates them and writes the report"
    )


def test_a_stop_before_it():
    found = trainer(1_500, 12_000)
    with pytest.raises(
        CoordinatedExit, match=r"^stopped by SIGINT after step 1,500 of 12,000, saved; "
    ):
        found._stop("SIGINT")


@pytest.mark.parametrize(
    ("indices", "line"),
    [
        ((3,), "skipped 1 unreadable training image: 3.png"),
        ((4, 3), "skipped 2 unreadable training images: 3.png, 4.png"),
        (
            range(12),
            "skipped 12 unreadable training images: 0.png, 1.png, 2.png, 3.png, 4.png, 5.png, "
            "6.png, 7.png, 8.png, 9.png and 2 more",
        ),
        ((), None),
    ],
)
def test_unreadable_images_are_counted_and_named(indices, line):
    source: Any = SimpleNamespace(name=lambda i: f"{i}.png")
    assert Unreadable(indices).describe(source) == line
