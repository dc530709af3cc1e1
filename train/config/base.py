"""Durations, and the checks that all groups of options use."""

import ast
import inspect
import itertools
import math
import re
import textwrap
from typing import Any

from resnet_jax.validate import check_fields
from train.errors import ConfigError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ep|st|%)")

_TIME = re.compile(r"(\d+(?:\.\d+)?)(h|min)")


def to_steps(duration: str, *, examples: int, batch_size: int, total: int | None = None) -> int:
    """Steps in a duration: "90ep" (epochs), "500st" (steps) or "5%" (of `total` steps).

    An epoch is `examples / batch_size` steps; the result is rounded up.

    Raises:
      ConfigError: not a duration, or a percentage without `total`.

    Examples:
      >>> to_steps("2ep", examples=1000, batch_size=128)
      16
      >>> to_steps("5%", examples=1000, batch_size=128, total=60)
      3
    """
    match = _DURATION.fullmatch(duration)
    if not match or (match[2] == "%" and total is None):
        share = " or '{}%' of the run" if total is not None else ""
        raise ConfigError(_no_duration(duration, share))
    value, unit = float(match[1]), match[2]
    steps = {"ep": value * examples / batch_size, "st": value, "%": value / 100 * (total or 0)}
    # 1e-9: 0.1 * 30 must not round up to 4
    return int(-(-(steps[unit] - 1e-9) // 1))


def seconds_in(duration: str) -> float | None:
    """Seconds in a time, "2h" or "90min"; None: `duration` is no time.

    >>> seconds_in("1.5h"), seconds_in("90min"), seconds_in("90ep")
    (5400.0, 5400.0, None)
    """
    match = _TIME.fullmatch(duration)
    return float(match[1]) * {"h": 3600, "min": 60}[match[2]] if match else None


def _no_duration(duration: str, more: str = "") -> str:
    """The message; a number without a unit is repeated with units. `more`: further forms, "{}%"."""
    numbers = ("90", "500", "5")
    if re.fullmatch(r"\d{1,9}(\.\d+)?", duration):
        numbers = (duration, duration, duration)
    return f"{duration!r} is not a duration: write " + f"'{{}}ep', '{{}}st'{more}".format(*numbers)


def check_duration(
    where: str, duration: str, *, share: bool = False, off: bool = False, positive: bool = True
) -> None:
    """Checks an option that is a duration.

    Args:
      where: the option's name.
      share: "5%" is valid too.
      off: "" is valid too.
      positive: 0 is invalid.

    Raises:
      ConfigError: the duration is invalid.
    """
    if off and duration == "":
        return
    match = _DURATION.fullmatch(duration)
    if not match or (match[2] == "%" and not share):
        more = (", '{}%'" if share else "") + (" or '' (off)" if off else "")
        raise ConfigError(f"{where} {_no_duration(duration, more)}")
    if positive and float(match[1]) == 0:
        raise ConfigError(
            f"{where} {duration!r}: must be more than 0" + (", or '' (off)" if off else "")
        )


def is_finite(*values: float) -> bool:
    return all(map(math.isfinite, values))


def check(where: str, value: Any, good: bool, rule: str) -> None:
    """Raises `ConfigError` with the option's name, its value and the rule, unless `good`."""
    if not good:
        raise ConfigError(f"{where} {value!r}: {rule}")


def check_types(config: Any, where: str) -> None:
    """Raises `ConfigError` if a field has a value of another type; `where` precedes its name."""
    try:
        check_fields(config, where)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field, from the source: Python does not keep them."""
    docs = {}
    definition: Any = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    for pair in itertools.pairwise(definition.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                docs[name] = str(text)
    return docs
