"""train/config/: steps in a duration."""

import math
import random
from fractions import Fraction

import pytest

from tests.config.test_config import refusal
from train.config import (
    to_steps,
)

# --- durations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duration, examples, batch_size, total, steps",
    [
        ("90ep", 1281167, 1024, None, 112603),  # 112602.6
        ("1ep", 1438, 64, None, 23),  # 22.47
        ("40ep", 1438, 64, None, 899),  # 898.75: rounded once, not 40 times
        ("1ep", 128, 128, None, 1),
        ("1ep", 129, 128, None, 2),
        ("0.5ep", 50000, 128, None, 196),  # 195.3
        ("64000st", 50000, 128, None, 64000),
        ("2.5st", 1, 1, None, 3),
        ("0st", 1, 1, None, 0),
        ("0ep", 1000, 10, None, 0),
        ("50%", 1, 1, 64000, 32000),
        ("75%", 1, 1, 64000, 48000),
        ("5%", 1, 1, 899, 45),  # 44.95
        ("12.5%", 1, 1, 8, 1),
        ("100%", 1, 1, 7, 7),
        ("0%", 1, 1, 7, 0),
        ("50%", 1, 1, 0, 0),
        ("0.1ep", 30, 1, None, 3),  # 3.0000000000000004 in floats
        ("7%", 1, 1, 100, 7),  # 7.000000000000001
        ("1.1ep", 10, 1, None, 11),  # 11.000000000000002
        ("55%", 1, 1, 100, 55),  # 55.00000000000001
    ],
)
def test_steps_of_a_duration(duration, examples, batch_size, total, steps):
    found = to_steps(duration, examples=examples, batch_size=batch_size, total=total)
    assert found == steps and type(found) is int


def test_steps_are_those_of_exact_arithmetic():
    draw = random.Random(0)
    wrong = []
    for _ in range(3000):
        number = draw.choice(["{:.0f}", "{:.1f}", "{:.2f}"]).format(draw.uniform(0, 100))
        examples, batch_size = draw.randint(1, 50_000), draw.choice([1, 7, 64, 100, 256])
        total = draw.randint(1, 1_000_000)
        sizes = {"examples": examples, "batch_size": batch_size, "total": total}
        exact = {
            "ep": Fraction(number) * examples / batch_size,
            "st": Fraction(number),
            "%": Fraction(number) / 100 * total,
        }
        for unit, steps in exact.items():
            if to_steps(number + unit, **sizes) != math.ceil(steps):
                wrong.append((number + unit, sizes))
    assert wrong == []


@pytest.mark.parametrize("duration", ["", "ep", "90 ep", "-1ep", "1e3st", "nanep", "90epochs"])
@pytest.mark.parametrize("total", [None, 100])
def test_what_is_no_duration_is_refused(duration, total):
    message = refusal(to_steps, duration, examples=10, batch_size=1, total=total)
    assert repr(duration) in message and "'90ep'" in message and "'500st'" in message
    assert ("%" in message) == (total is not None)


def test_share_of_an_unknown_total_is_refused():
    message = refusal(to_steps, "5%", examples=10, batch_size=1)
    assert "'5%' is not a duration" in message and "'90ep', '500st'" in message
