"""resnet_jax/weights/torch_checkpoint.py: no code of a file is run."""

import builtins
import collections
import fractions
import functools
import io
import os
import pickle
import sys

import numpy as np
import pytest

from resnet_jax.weights.torch_checkpoint import read_without_torch
from resnet_jax.weights.unpickler import Unpickler, UnsafeFile
from tests.resnet_jax.test_torch_checkpoint import (
    FOUR,
    FOUR_RECORDS,
    HEADER,
    Name,
    Reduced,
    both_formats,
    both_readers,
    opcodes,
    pickled,
    refused,
    system,
    tensor,
    write_zip,
)

ATTACKS = {
    f"{os.name}.system": lambda mark: system(f"touch {mark}"),
    "builtins.eval": lambda mark: Reduced(eval, f"open({str(mark)!r}, 'w')"),
    "builtins.exec": lambda mark: Reduced(exec, f"open({str(mark)!r}, 'w')"),
    "builtins.getattr": lambda mark: Reduced(getattr, {}, "clear"),
    "functools.partial": lambda mark: Reduced(functools.partial, open, str(mark), "w"),
    "io.open": lambda mark: Reduced(open, str(mark), "w"),
    "fractions.Fraction": lambda mark: fractions.Fraction(1, 2),
}
PLACES = {
    "alone": lambda evil: evil,
    "in a list": lambda evil: [1, {"optimizer": (2, [evil])}],
    "beside tensors": lambda evil: {"w": FOUR, "b": FOUR, "args": evil},
    "as a storage": lambda evil: tensor(evil, (4,), (1,)),
}


@both_readers
@both_formats
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ATTACKS)
def test_foreign_names_are_refused_and_named(tmp_path, write, read, place, name):
    mark = tmp_path / "it-ran"
    path = write(tmp_path / "evil.pth", PLACES[place](ATTACKS[name](mark)), FOUR_RECORDS)
    said = f"refuses to load {name}: a checkpoint holds tensors and plain containers only; "
    said += "save its state dict alone"
    refused(read, path, said, UnsafeFile)
    assert not mark.exists()


@both_readers
@both_formats
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_system_in_every_protocol(tmp_path, write, read, protocol):
    mark = tmp_path / "it-ran"
    evil = pickle.dumps(system(f"touch {mark}"), protocol)
    refused(read, write(tmp_path / "evil.pth", evil, {}), f"{os.name}.system", UnsafeFile)
    assert not mark.exists()
    pickle.loads(evil)
    assert mark.exists()  # so it would have run


@both_readers
@pytest.mark.parametrize("place", range(5))
def test_system_in_every_pickle_of_the_old_format(tmp_path, read, place):
    mark = tmp_path / "it-ran"
    parts: list = [*HEADER, [1], []]
    parts[place] = system(f"touch {mark}")
    (tmp_path / "evil.pth").write_bytes(b"".join(map(pickled, parts)))
    refused(read, tmp_path / "evil.pth", f"refuses to load {os.name}.system", UnsafeFile)
    assert not mark.exists()


@both_readers
def test_attribute_of_an_allowed_type(tmp_path, read):
    evil = b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93."
    path = write_zip(tmp_path / "evil.pth", evil, {})
    refused(read, path, "refuses to load collections.OrderedDict.fromkeys: ", UnsafeFile)


@both_readers
def test_name_that_would_write_to_the_terminal(tmp_path, read):
    evil = b"\x80\x04\x8c\x04\x1b[2J\x8c\x03a\nb\x93."
    path = write_zip(tmp_path / "evil.pth", evil, {})
    refused(read, path, r"refuses to load \x1b[2J.a\nb: ", UnsafeFile)


def test_no_other_name_of_python_or_numpy_is_loaded(tmp_path):
    allowed = set()
    for module in (builtins, os, collections, functools, pickle, sys, np, io):
        for name in dir(module):
            value = Name(f"{module.__name__}.{name}")
            try:
                read_without_torch(write_zip(tmp_path / "a.pth", value, {}))
            except UnsafeFile:
                continue
            except ValueError:  # loaded, and refused for being no container
                pass
            allowed.add(str(value))
    containers = {"OrderedDict", "Counter", "defaultdict", "deque"}
    types = {"bool", "bytes", "dict", "float", "frozenset", "int", "list", "set", "str"}
    expected = {f"collections.{name}" for name in containers}
    expected |= {f"builtins.{name}" for name in types}
    assert allowed == expected | {"numpy.dtype", "numpy.ndarray"}


@both_readers
@both_formats
@pytest.mark.parametrize(
    "name",
    [
        "collections.OrderedDict",
        "collections.Counter",
        "collections.defaultdict",
        "builtins.set",
        "argparse.Namespace",
        "pathlib.PosixPath",
        "numpy.dtype",
        "torch.Size",
        "torch.FloatStorage",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
    ],
)
@pytest.mark.parametrize("slots", [False, True])
def test_a_file_cannot_change_what_it_names(tmp_path, write, read, name, slots):
    """BUILD sets attributes of anything; here of types and functions that outlive the file."""
    attributes = {"evil": 1, "__defaults__": (1,)}
    state = (None, attributes) if slots else attributes
    evil = b"\x80\x02" + opcodes(Name(name), False) + opcodes(state, False) + b"b."
    refused(read, write(tmp_path / "evil.pth", evil, {}), "")
    unpickler = Unpickler(io.BytesIO(), lambda *_: np.zeros(0))
    module, _, last = name.rpartition(".")
    found = unpickler.find_class(module, last)
    assert not hasattr(found, "evil") and not getattr(found, "__defaults__", None)
