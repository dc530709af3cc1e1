"""`augment.policy`: the names of the policies, and RandAugment in timm's string form."""

import functools
import math
import re
from dataclasses import dataclass
from typing import Literal

from train.errors import ConfigError

POLICIES = ("ta_wide", "autoaugment", "autoaugment-cifar10", "augmix")
"""Policies that have a name; the others are strings that start with `rand`."""

_SECTION = re.compile(r"(mstd|mmax|inc|m|n|p|w)(inf|\d+(?:\.\d+)?)")
_UNIFORM_ABOVE = 100  # timm samples magnitudes uniformly if mstd is larger
_HELP = (
    "sections are m7 (magnitude), n2 (operations), p0.5 (probability of each), mstd0.5 (its "
    "standard deviation), mmax10 (largest magnitude), inc1 (increasing), w0 or tweights (weights)"
)


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk 2019, arXiv:1909.13719) with timm's extensions (its auto_augment.py)."""

    magnitude: int = 10
    """Of 10, or of `largest`."""
    count: int = 2
    """Operations that are drawn for an image."""
    probability: float = 0.5
    """Of each drawn operation to be applied."""
    std: float = 0.0
    """Standard deviation of the magnitude; infinite: uniform between 0 and `magnitude`."""
    largest: float = 10.0
    """Magnitudes are clipped to 0..largest."""
    increasing: bool = False
    """Use the forms of the operations whose strength grows with the magnitude."""
    weights: Literal["", "w0", "tweights"] = ""
    """Weights of the operations, which are then drawn without replacement; "": equal ones."""


@functools.cache
def parse_policy(text: str) -> RandAugment | str:
    """The policy of a text: a `RandAugment`, or one of `POLICIES`; "": none.

    As in timm, magnitudes above 10 are clipped unless `mmax` is larger, and with `mstd` above 100
    or `mstdinf` they are uniform between 0 and `m`. `tweights` are timm's weights today, `w0` those
    of its versions before 1.0.

    Raises:
      ConfigError: there is no such policy.

    Examples:
      >>> parse_policy("rand-m7-mstd0.5-inc1").magnitude
      7
      >>> parse_policy("rand-m9-mstdinf").std
      inf
    """
    if text in ("", *POLICIES):
        return text
    name, *sections = text.split("-")
    if name != "rand":
        raise ConfigError(
            f"augment.policy {text!r}: choose from {', '.join(map(repr, POLICIES))}, RandAugment "
            "such as 'rand-m7-mstd0.5-inc1', or '' (none)"
        )
    values: dict[str, float] = {}
    weights: Literal["", "w0", "tweights"] = ""
    for section in sections:
        if section in ("w0", "tweights") and not weights:
            weights = "w0" if section == "w0" else "tweights"
            continue
        match = _SECTION.fullmatch(section)
        if not match or match[1] in values or not _is_valid(match[1], float(match[2])):
            raise ConfigError(f"augment.policy {text!r}: {section!r} is invalid: {_HELP}")
        values[match[1]] = float(match[2])
    std = values.get("mstd", 0.0)
    found = RandAugment(
        magnitude=int(values.get("m", 10)),
        count=int(values.get("n", 2)),
        probability=values.get("p", 0.5),
        std=math.inf if std > _UNIFORM_ABOVE else std,
        largest=values.get("mmax", 10.0),
        increasing=values.get("inc", 0) == 1,
        weights=weights,
    )
    if weights and found.count > DRAWABLE[weights]:
        raise ConfigError(
            f"augment.policy {text!r}: n{found.count} is invalid: with {weights}, at most "
            f"{DRAWABLE[weights]} operations can be drawn"
        )
    return found


DRAWABLE = {"w0": 13, "tweights": 15}
"""Operations with a weight above 0."""


def _is_valid(key: str, value: float) -> bool:
    if key == "mstd":
        return True
    if key == "p":
        return 0 < value <= 1
    if key == "inc":
        return value in (0, 1)
    return value.is_integer() and value >= (0 if key == "m" else 1) and key != "w"
