"""Checks of a dataclass's values against its type annotations."""

import types
import typing
from typing import Any, Literal


def check_fields(instance: Any, where: str = "") -> None:
    """Checks that all fields have the annotated types; lists become tuples.

    Args:
      instance: of a dataclass.
      where: a prefix for names in messages.

    Raises:
      ValueError: a value does not fit its annotation; names the field, the value and the choices.

    >>> import dataclasses
    >>> @dataclasses.dataclass
    ... class Options:
    ...     shape: Literal["round", "square"]
    >>> check_fields(Options("flat"), "drawing.")
    Traceback (most recent call last):
    ValueError: drawing.shape 'flat': choose from 'round', 'square'
    """
    for name, kind in typing.get_type_hints(type(instance)).items():
        value = getattr(instance, name)
        if isinstance(value, list):  # as JSON gives them
            value = tuple(value)
            object.__setattr__(instance, name, value)
        if not _fits(value, kind):
            raise ValueError(f"{where}{name} {value!r}: {_rule(kind)}")


def _fits(value: Any, kind: Any) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in args
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = (args[0],) * len(value) if args[-1] is Ellipsis else args
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind in (int, float):
        numbers = (int, float) if kind is float else int
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, kind)


def _rule(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"choose from {', '.join(map(repr, args))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_rule(arg) for arg in args if arg is not type(None))
    if origin is tuple and typing.get_origin(args[0]) is Literal:
        return f"needs a tuple, each of {', '.join(map(repr, typing.get_args(args[0])))}"
    if origin is tuple:
        count = "" if args[-1] is Ellipsis else f"{len(args)} "
        return f"needs a tuple of {count}{args[0].__name__}"
    return f"needs {kind.__name__}"
