"""Objects in a torch checkpoint other than tensors, as plain Python values.

Training programs save options and states with the weights: an `argparse.Namespace` (timm,
torchvision's references), paths, NumPy numbers, Lightning's hyperparameters. Each class in this
file is read as a plain value. None of its code is imported or run.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np


class Replacement(NamedTuple):
    """Replaces a class or function of a pickle: `make` is called with the pickle's arguments.

    It is a tuple because a pickle can set attributes of the objects that it names, but not of a
    tuple.
    """

    make: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.make(*args)


class Attributes(dict[Any, Any]):
    """An object as the dict of its attributes."""

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # (__dict__, __slots__)
            self.update(part or {})


class Dtype:
    """A `numpy.dtype` of numbers or text; `__setstate__` sets its byte order."""

    def __init__(self, spec: Any, *_: Any) -> None:
        if not isinstance(spec, str) or not re.fullmatch(r"[biufcSU]\d{1,6}", spec):
            raise ValueError(f"an array of NumPy's type {spec!r}: numbers and text are read")
        self.value = np.dtype(spec)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class Array:
    """A `numpy.ndarray`; `__setstate__` sets its content."""

    def __init__(self, *_: Any) -> None:
        self.value = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        numbers = np.frombuffer(raw, dtype.value)
        self.value = numbers.reshape(shape, order="F" if is_fortran else "C").copy()


def _scalar(dtype: Dtype, raw: bytes) -> Any:
    return np.frombuffer(raw, dtype.value, 1)[0].item()


def _bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """Bytes as pickle protocol 2 writes them."""
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}: latin1 is read")
    return text.encode("latin1")


def _device(kind: str, index: int | None = None) -> str:
    return kind if index is None else f"{kind}:{index}"


# Only types in C and `Replacement`s: a pickle cannot set their attributes.
TYPES: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,  # and not dict: state_dicts have a `_metadata`
    "collections.Counter": dict,  # the milestones of a schedule
    "torch.Size": tuple,
    "builtins.set": set,
    "builtins.frozenset": Replacement(lambda items=(): set(items)),
    "builtins.bytes": Replacement(lambda: b""),
    "_codecs.encode": Replacement(_bytes),
    "collections.defaultdict": Replacement(lambda *_: {}),
    "collections.deque": Replacement(lambda items=(), *_: list(items)),
    "argparse.Namespace": Replacement(Attributes),
    "numpy.dtype": Replacement(Dtype),
    "numpy.ndarray": "numpy.ndarray",
    "torch.device": Replacement(_device),
    "torch.serialization._get_layout": Replacement(str),
    **{
        f"numpy.{core}.multiarray.{name}": Replacement(make)
        for core in ("core", "_core")
        for name, make in (("scalar", _scalar), ("_reconstruct", Array))
    },
    **{
        f"pathlib.{module}{pure}{kind}": Replacement(lambda *parts, path=path: str(path(*parts)))
        for module in ("", "_local.")  # Python 3.13
        for pure in ("", "Pure")
        for kind, path in (("PosixPath", PurePosixPath), ("WindowsPath", PureWindowsPath))
    },
    # Factories of a defaultdict, as text, which cannot be called.
    **{f"builtins.{name}": name for name in ("bool", "dict", "float", "int", "list", "str")},
    **{
        f"torch.{name}": f"torch.{name}"
        for name in (
            *("bool", "uint8", "int8", "int16", "short", "int32", "int", "int64", "long"),
            *("bfloat16", "float16", "half", "float32", "float", "float64", "double"),
            *("complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
            *("uint16", "uint32", "uint64", "contiguous_format", "channels_last"),
            *("preserve_format", "strided"),
        )
    },
}
_LIGHTNING = re.compile(
    r"(pytorch_lightning|lightning|lightning_fabric)\."
    r"([\w.]+\.(?P<dict>AttributeDict)|([\w.]+\.)?callbacks\.[\w.]+)"
)


def find_type(name: str) -> Any:
    """The replacement of a class, function or constant; None: it is unknown.

    >>> find_type("pathlib.PosixPath")("/", "data", "cifar")
    '/data/cifar'
    >>> find_type("os.system") is None
    True
    """
    if lightning := _LIGHTNING.fullmatch(name):  # a callback's class is a key of its state
        return Replacement(Attributes) if lightning["dict"] else name
    return TYPES.get(name)


def plain_type(value: Any) -> Any:
    """The plain value of an `Array` or `Dtype`; other values do not change."""
    if isinstance(value, Array):
        return value.value
    return str(value.value) if isinstance(value, Dtype) else value
