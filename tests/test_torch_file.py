"""resnet_jax/torch_file.py, on files written by hand and, where it is installed, by torch."""

import builtins
import collections
import fractions
import functools
import io
import os
import pickle
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from resnet_jax import torch_file
from resnet_jax.torch_file import UnsafeFile, read_torch, read_without_torch

HEADER = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})


class Name(str):
    """MODULE.NAME, which a pickle has loaded."""


class Call(NamedTuple):
    """What a pickle gets by calling a `Name`; with `state`, whose attributes it then sets."""

    function: Name
    args: tuple
    state: Any = None


class Storage(NamedTuple):
    """A storage as tensors refer to it."""

    kind: str
    key: str
    numel: int
    view: tuple = ()

    def pid(self) -> tuple:
        return ("storage", Name(f"torch.{self.kind}Storage"), self.key, "cpu", self.numel)


def pickled(value: Any, legacy: bool = False) -> bytes:
    """A pickle of protocol 2, as torch writes it, of names that need not exist here."""
    return b"\x80\x02" + opcodes(value, legacy) + b"."


def opcodes(value: Any, legacy: bool) -> bytes:
    def several(items: Any) -> bytes:
        return b"(" + b"".join(opcodes(item, legacy) for item in items)

    match value:
        case Name():
            module, _, name = value.rpartition(".")
            return f"c{module}\n{name}\n".encode()
        case Call():
            made = opcodes(value.function, legacy) + several(value.args) + b"tR"
            return made if value.state is None else made + opcodes(value.state, legacy) + b"b"
        case Storage():
            last = (value.view or None,) if legacy else ()
            return several((*value.pid(), *last)) + b"tQ"
        case dict():
            return b"}" + several(part for item in value.items() for part in item) + b"u"
        case list():
            return b"]" + several(value) + b"e"
        case tuple():
            return several(value) + b"t"
    return pickle.dumps(value, 2)[2:-1]


def write_zip(path: Path, value: Any, records: dict[str, bytes], **other: bytes) -> Path:
    """A file as torch >= 1.6 writes it; `value` may be a pickle already."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", value if isinstance(value, bytes) else pickled(value))
        for name, data in other.items():
            archive.writestr(f"archive/{name}", data)
        for key, data in records.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return path


def write_legacy(
    path: Path, value: Any, records: dict[str, bytes], counts: dict[str, int] | None = None
) -> Path:
    """A file as torch < 1.6 writes it; `counts` of numbers are those of float32 unless given."""
    data = b"".join(pickled(part) for part in HEADER)
    data += value if isinstance(value, bytes) else pickled(value, legacy=True)
    data += pickled(list(records))
    for key, raw in records.items():
        count = len(raw) // 4 if counts is None else counts[key]
        data += count.to_bytes(8, "little") + raw
    path.write_bytes(data)
    return path


def tensor(storage: Any, size: tuple, stride: tuple, offset: int = 0) -> Call:
    hooks = Call(Name("collections.OrderedDict"), ())
    args = (storage, offset, size, stride, False, hooks)
    return Call(Name("torch._utils._rebuild_tensor_v2"), args)


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


FOUR = tensor(Storage("Float", "0", 4), (4,), (1,))
FOUR_RECORDS = {"0": floats(0, 1, 2, 3)}

both_readers = pytest.mark.parametrize("read", [read_torch, read_without_torch])
both_formats = pytest.mark.parametrize("write", [write_zip, write_legacy])


def refused(read: Any, path: Path, reason: str, kind: type = ValueError) -> None:
    """One line that begins with the file and has `reason`, of just this type."""
    with pytest.raises(ValueError) as caught:
        read(path)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert reason in message.removeprefix(f"{path}: ")


# Reading


@pytest.mark.parametrize(
    "kind, dtype, raw, values",
    [
        ("Double", "f8", "000000000000f03f 9a9999999999b9bf", [1.0, -0.1]),
        ("Float", "f4", "0000803f 000000c0 0000807f", [1.0, -2.0, np.inf]),
        ("Half", "f2", "003c 00c0 ff7b", [1.0, -2.0, 65504.0]),
        ("BFloat16", "f4", "803f 49c0 807f 0100", [1.0, -3.140625, np.inf, 2.0**-133]),
        ("Long", "i8", "ffffffffffffffff 0000000000000080", [-1, -(2**63)]),
        ("Int", "i4", "feffffff 00000080", [-2, -(2**31)]),
        ("Short", "i2", "fdff 0001", [-3, 256]),
        ("Char", "i1", "fc 7f", [-4, 127]),
        ("Byte", "u1", "fb 00", [251, 0]),
        ("Bool", "?", "00 01", [False, True]),
    ],
)
@both_readers
@both_formats
def test_every_type_of_number(tmp_path, write, read, kind, dtype, raw, values):
    data, n = bytes.fromhex(raw), len(values)
    more = {"counts": {"7": n}} if write is write_legacy else {}
    value = {"x": tensor(Storage(kind, "7", n), (n,), (1,))}
    array = read(write(tmp_path / "a.pth", value, {"7": data}, **more))["x"]
    assert type(array) is np.ndarray and array.dtype == dtype
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, np.array(values, dtype))


@both_readers
@both_formats
def test_views_of_one_storage(tmp_path, write, read):
    storage = Storage("Float", "0", 12)
    value = {
        "rows": tensor(storage, (3, 4), (4, 1)),
        "transposed": tensor(storage, (4, 3), (1, 4)),
        "column": tensor(storage, (3,), (4,), 2),
        "last": tensor(storage, (), (), 11),
        "expanded": tensor(storage, (2, 5), (0, 0), 6),
        "empty": tensor(storage, (0, 4), (4, 1)),
    }
    found = read(write(tmp_path / "a.pth", value, {"0": floats(*range(12))}))
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {
        "rows": rows,
        "transposed": rows.T,
        "column": [2, 6, 10],
        "last": 11,
        "expanded": np.full((2, 5), 6),
        "empty": np.zeros((0, 4)),
    }
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array, strict=False, err_msg=name)
        assert found[name].shape == np.shape(array)
    found["rows"][0, 2] = 100  # shared and writable, as with torch
    assert found["transposed"][2, 0] == found["column"][0] == 100


@both_readers
@both_formats
def test_containers(tmp_path, write, read):
    parameter = Call(Name("torch._utils._rebuild_parameter"), (FOUR, True, {}))
    old = Call(Name("torch._utils._rebuild_tensor"), (Storage("Float", "0", 4), 1, (2,), (2,)))
    state = Call(
        Name("collections.OrderedDict"), ([["w", parameter]],), {"_metadata": {"": {"v": 1}}}
    )
    value = {
        "state_dict": state,
        "again": [FOUR, (1, 2.5, None, True, "é"), []],
        "size": Call(Name("torch.Size"), ((3, 4),)),
        "milestones": Call(Name("collections.Counter"), ({30: 1, 60: 1},)),
        "set": {1, 2},
        "large": 2**70,
        3: old,
    }
    found = read(write(tmp_path / "a.pth", value, FOUR_RECORDS))
    four = np.arange(4, dtype=np.float32)
    assert type(found["state_dict"]) is dict and list(found["state_dict"]) == ["w"]
    np.testing.assert_array_equal(found["state_dict"]["w"], four, strict=True)
    np.testing.assert_array_equal(found["again"][0], four, strict=True)
    assert found["again"][1:] == [(1, 2.5, None, True, "é"), []]
    assert found["size"] == (3, 4) and type(found["size"]) is tuple
    assert found["milestones"] == {30: 1, 60: 1} and type(found["milestones"]) is dict
    assert found["set"] == {1, 2} and found["large"] == 2**70
    np.testing.assert_array_equal(found[3], four[1::2], strict=True)


@both_readers
def test_big_endian(tmp_path, read):
    value = [FOUR, tensor(Storage("BFloat16", "1", 1), (1,), (1,))]
    records = {"0": np.arange(4, dtype=">f4").tobytes(), "1": b"\x3f\x80"}
    path = write_zip(tmp_path / "a.pth", value, records, byteorder=b"big")
    arrays = read(path)
    np.testing.assert_array_equal(arrays[0], np.arange(4, dtype=np.float32), strict=True)
    np.testing.assert_array_equal(arrays[1], np.ones(1, np.float32), strict=True)


@both_readers
@both_formats
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path, write, read, protocol):
    value = {"epoch": 90, "words": ["a" * 300, "b"], "set": {1.5}, "loss": 1e-3}
    path = write(tmp_path / "a.pth", pickle.dumps(value, protocol), {})
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert read(path) == value
    assert not warned


@both_readers
@both_formats
def test_strings_of_python_2(tmp_path, write, read):
    value = pickled({"é": FOUR}, write is write_legacy)
    for word in ("é", "storage", "0", "cpu"):
        raw = word.encode()
        new = pickle.BINUNICODE + len(raw).to_bytes(4, "little") + raw
        assert new in value
        value = value.replace(new, pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
    found = read(write(tmp_path / "a.pth", value, FOUR_RECORDS))
    assert list(found) == ["é"] and found["é"].tolist() == [0, 1, 2, 3]


@both_readers
def test_storage_that_is_a_view(tmp_path, read):
    whole = Storage("Float", "0", 4)
    value = [tensor(whole._replace(view=("v", 1, 2)), (2,), (1,)), tensor(whole, (4,), (1,))]
    found = read(write_legacy(tmp_path / "a.pth", value, FOUR_RECORDS))
    assert found[0].tolist() == [1, 2] and np.shares_memory(*found)


@both_readers
@both_formats
def test_shared_objects_stay_shared(tmp_path, write, read):
    """And a file of 2^40 lists that are one and the same is read at once."""
    nested: list = []
    for _ in range(40):
        nested = [nested, nested]
    found = read(write(tmp_path / "a.pth", pickle.dumps(nested, 2), {}))
    depth = 0
    while found:
        assert found[0] is found[1]
        found, depth = found[0], depth + 1
    assert depth == 40


def test_without_torch_it_is_the_other_reader(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.pth", [FOUR], FOUR_RECORDS)
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch: ImportError
    assert read_torch(str(path))[0].tolist() == [0, 1, 2, 3]
    monkeypatch.setattr(torch_file, "read_without_torch", lambda path, check: f"{path} read")
    assert read_torch(path) == f"{path} read"


# Refusing to run what a file says


class Reduced:
    def __init__(self, function: Any, *args: Any):
        self.reduced = function, args

    def __reduce__(self) -> tuple:
        return self.reduced


def system(command: str) -> Reduced:
    return Reduced(os.system, command)


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
    unpickler = torch_file._Unpickler(io.BytesIO(), lambda *_: np.zeros(0))
    module, _, last = name.rpartition(".")
    found = unpickler.find_class(module, last)
    assert not hasattr(found, "evil") and not getattr(found, "__defaults__", None)


# Files that are damaged


@both_readers
@both_formats
def test_cut_at_every_length(tmp_path, write, read):
    value = {"w": FOUR, "b": tensor(Storage("Float", "1", 0), (0,), (1,)), "epoch": 3}
    whole = write(tmp_path / "whole.pth", value, FOUR_RECORDS | {"1": b""}).read_bytes()
    assert read(tmp_path / "whole.pth")["w"].tolist() == [0, 1, 2, 3]
    cut = tmp_path / "cut.pth"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        refused(read, cut, "")


@both_readers
@both_formats
@pytest.mark.parametrize(
    "size, stride, start",
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2, 2), (3, 1), 0),
        ((2,), (4,), 0),
        ((1,), (1,), 4),
        ((), (), 4),
        ((1,), (1,), -1),
        ((4,), (-1,), 3),
        ((-1,), (1,), 0),
        ((2, 2), (1,), 0),
        ((2,), (2**62,), 0),
        ((2**62 + 1,), (4,), 0),  # wraps to 0 bytes in 64 bits
        ((3,), (2**63,), 0),
        ((1,), (1,), 2**62),
    ],
)
def test_tensor_beyond_its_storage(tmp_path, write, read, size, stride, start):
    value = tensor(Storage("Float", "0", 4), size, stride, start)
    path = write(tmp_path / "a.pth", value, FOUR_RECORDS)
    refused(read, path, f"damaged: a tensor of size {size}, strides {stride}, at {start}")


@both_formats
def test_tensor_of_a_tensor_is_bounded_too(tmp_path, write):
    """The first argument should be a storage; a strided view must not become one."""
    inner = tensor(Storage("Float", "0", 4), (2,), (3,))
    wide = tensor(Storage("Float", "0", 4), (1000,), (0,))
    for view, size in ((inner, 2), (wide, 1000)):
        path = write(tmp_path / "a.pth", tensor(view, (size,), (1,)), FOUR_RECORDS)
        refused(read_without_torch, path, "")


@both_readers
@both_formats
@pytest.mark.parametrize("size", [(2.0,), ("4",), None, 4])
def test_size_that_is_none(tmp_path, write, read, size):
    path = write(tmp_path / "a.pth", tensor(Storage("Float", "0", 4), size, (1,)), FOUR_RECORDS)
    refused(read, path, "TypeError")


@both_readers
def test_sizes_that_overflow_as_numpy_has_them(tmp_path, read):
    """A tensor as the size of another: in 64 bits its last number is the first of the storage."""
    size = tensor(Storage("Long", "1", 1), (1,), (1,))
    value = tensor(Storage("Float", "0", 4), size, (4,))
    records = FOUR_RECORDS | {"1": (2**62 + 1).to_bytes(8, "little")}
    path = write_zip(tmp_path / "a.pth", value, records)
    refused(read, path, "reaches beyond its storage of 4")


@both_readers
@both_formats
def test_storage_that_only_looks_like_one(tmp_path, write, read):
    looks = {"size": 2**70, "dtype": "f4", "itemsize": 4, "data": FOUR}
    fake = Call(Name("collections.OrderedDict"), (), looks)
    path = write(tmp_path / "a.pth", tensor(fake, (3,), (1,), 1), FOUR_RECORDS)
    refused(read, path, "a tensor without a storage")


@both_readers
def test_record_that_says_it_is_longer(tmp_path, read):
    """One number must not become four of the same."""
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(FOUR))
        archive.writestr("archive/data/0", floats(7))
        archive.filelist[-1].file_size = 16
    assert zipfile.ZipFile(path).read("archive/data/0") == floats(7)
    refused(read, path, "")


@both_readers
@pytest.mark.parametrize("numel", [-1, 0, 3, 5, 2**40, 2**64])
def test_storage_of_another_length(tmp_path, read, numel):
    value = tensor(Storage("Float", "0", numel), (1,), (1,))
    refused(read, write_zip(tmp_path / "a.pth", value, FOUR_RECORDS), "")
    reason = "storage 0 is longer than what the file has left" if numel > 2**20 else ""
    refused(read, write_legacy(tmp_path / "b.pth", value, FOUR_RECORDS), reason)


@both_readers
@pytest.mark.parametrize("record", [b"", floats(0, 1, 2), floats(0, 1, 2)[:-1]])
def test_record_shorter_than_its_tensor(tmp_path, read, record):
    path = write_zip(tmp_path / "a.pth", FOUR, {"0": record})
    refused(read, path, f"data/0 has {len(record)} bytes instead of 16")
    path = write_legacy(tmp_path / "b.pth", FOUR, {"0": record}, {"0": 4})
    refused(read, path, "cut short or damaged in storage 0")


@both_readers
def test_record_that_is_not_there(tmp_path, read):
    refused(read, write_zip(tmp_path / "a.pth", FOUR, {"1": floats(0, 1, 2, 3)}), "data/0")


@pytest.mark.parametrize("records", [{}, {"1": floats(0)}, FOUR_RECORDS | {"1": floats(0)}])
def test_storages_that_are_not_those_of_the_tensors(tmp_path, records):
    path = write_legacy(tmp_path / "a.pth", FOUR, records)
    refused(read_without_torch, path, "its list of storages is not that of its tensors")


@both_formats
def test_storage_of_two_types(tmp_path, write):
    value = [FOUR, tensor(Storage("Int", "0", 4), (4,), (1,))]
    path = write(tmp_path / "a.pth", value, FOUR_RECORDS)
    refused(read_without_torch, path, "storage 0 has two types or sizes")


@both_readers
@both_formats
@pytest.mark.parametrize("pid", ["storage", ("module", 1), (), ("storage", "Float", "0", "cpu")])
def test_reference_to_no_storage(tmp_path, write, read, pid):
    evil = b"\x80\x02" + opcodes(pid, False) + b"Q."
    refused(read, write(tmp_path / "a.pth", evil, {}), "something that is no storage")


@both_readers
def test_view_beyond_its_storage(tmp_path, read):
    for view in (("v", 3, 2), ("v", -1, 2), ("v", 1, -1)):
        value = tensor(Storage("Float", "0", 4, view), (1,), (1,))
        path = write_legacy(tmp_path / "a.pth", value, FOUR_RECORDS)
        refused(read_without_torch, path, "a view reaches beyond storage 0 of 4")


@both_readers
@both_formats
def test_dict_with_methods_of_its_own(tmp_path, write, read):
    state = {"items": 1, "detach": 2, "_metadata": {}}
    value = Call(Name("collections.OrderedDict"), ([["epoch", 3]],), state)
    assert read(write(tmp_path / "a.pth", value, {})) == {"epoch": 3}


@both_formats
@pytest.mark.parametrize(
    "damaged",
    [
        b"K\x01" + pickle.LONG_BINPUT + (2**22).to_bytes(4, "little"),
        pickle.BYTEARRAY8 + (2**24).to_bytes(8, "little"),
    ],
)
def test_damage_does_not_fill_the_memory(tmp_path, write, damaged):
    path = write(tmp_path / "a.pth", b"\x80\x05" + damaged + b".", {})
    tracemalloc.start()
    try:
        with suppress(ValueError):
            read_without_torch(path)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


@both_readers
@both_formats
def test_list_within_itself(tmp_path, write, read):
    endless: list = []
    endless.append(endless)
    refused(read, write(tmp_path / "a.pth", pickle.dumps(endless, 2), {}), "RecursionError")


# Files of something else


@both_readers
def test_text(tmp_path, read):
    path = tmp_path / "a.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(read, path, "no torch file: it starts with b'version https://'")
    path.write_bytes(b"")
    refused(read, path, "no torch file: it is empty")


@both_readers
def test_pickle_of_something_else(tmp_path, read):
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"w": [1.0]}, 2))
    refused(read, path, "no torch file: a pickle that begins otherwise")
    mark = tmp_path / "it-ran"
    path.write_bytes(pickle.dumps(system(f"touch {mark}"), 2))
    refused(read, path, f"refuses to load {os.name}.system", UnsafeFile)
    assert not mark.exists()


@both_readers
def test_other_archives(tmp_path, read):
    np.savez(tmp_path / "a.npz", w=np.zeros(3))
    refused(read, tmp_path / "a.npz", "no torch file: a zip archive with 0 */data.pkl, not one")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    refused(read, tmp_path / "a.tar", "of torch < 0.1.10 (a tar archive), too old")
    path = write_zip(tmp_path / "a.pth", FOUR, FOUR_RECORDS, byteorder=b"middle")
    refused(read, path, "byteorder 'middle': little or big")


@both_readers
def test_no_file_or_a_directory(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read(tmp_path / "none.pth")
    refused(read, tmp_path, "IsADirectoryError")


# Files that torch writes


def same(found: Any, expected: Any) -> None:
    """The same types, dtypes, shapes and values throughout."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            same(*pair)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, strict=True)
    else:
        assert found == expected


both_savings = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


@both_savings
def test_both_readers_read_what_torch_saves(tmp_path, monkeypatch, new):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]
    kinds += [torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
    value = {
        "kinds": collections.OrderedDict((str(k), (base * 10).abs().to(k)) for k in kinds),
        "views": [base, base.T, base[2:, 1::2], base[3], base.flatten()[7:], base[:, 2]],
        "scalars": (torch.tensor(3.5), torch.tensor(7), base[1, 1]),
        "empty": [torch.zeros(0), torch.zeros(2, 0, 3), base[6:]],
        "expanded": torch.ones(1).expand(3, 4),
        "parameter": torch.nn.Parameter(torch.randn(3, 2).T),
        "frozen": torch.nn.Parameter(torch.arange(3), requires_grad=False),
        "bfloat16 view": torch.randn(4, 4, dtype=torch.bfloat16)[1:, ::2],
        "size": base.size(),
        "plain": [1, -(2**80), 2.5, None, True, "é", {"a": ()}, collections.Counter([3, 3])],
    }
    path = tmp_path / "a.pth"
    torch.save(value, path, _use_new_zipfile_serialization=new)
    plain = read_without_torch(path)
    same(plain["plain"], [*value["plain"][:-1], {3: 2}])
    same(plain["size"], (6, 5))
    same(plain["views"], [view.numpy() for view in value["views"]])
    for kind in kinds:
        name, wide = str(kind), torch.float32 if kind is torch.bfloat16 else kind
        same(plain["kinds"][name], value["kinds"][name].to(wide).numpy())
    same(plain["bfloat16 view"], value["bfloat16 view"].float().numpy())
    same(plain["parameter"], value["parameter"].detach().numpy())

    def never(*_: Any) -> None:
        raise AssertionError("torch should have read it")

    monkeypatch.setattr(torch_file, "read_without_torch", never)
    same(read_torch(path), plain)


@both_savings
def test_state_dicts_and_optimizers_of_torch(tmp_path, new):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    net(torch.randn(5, 3, 4, 4)).sum().backward()
    optimizer.step()
    parts = {"state_dict": net, "optimizer": optimizer, "schedule": schedule}
    path = tmp_path / "a.pth"
    saved = {"epoch": 1, **{name: part.state_dict() for name, part in parts.items()}}
    torch.save(saved, path, _use_new_zipfile_serialization=new)
    found = read_without_torch(path)
    expected = {name: t.numpy() for name, t in net.state_dict().items()}
    same(found["state_dict"], expected)
    assert "1.num_batches_tracked" in expected and expected["1.num_batches_tracked"].shape == ()
    momentum = optimizer.state_dict()["state"][0]["momentum_buffer"].numpy()
    same(found["optimizer"]["state"][0]["momentum_buffer"], momentum)
    assert found["schedule"]["milestones"] == {1: 1, 2: 1}
    same(read_torch(path), found)


@both_savings
def test_state_dict_of_many_tensors(tmp_path, new):
    """More than the 256 objects that a pickle refers to by one byte."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(*(torch.nn.BatchNorm2d(1 + i % 7) for i in range(100)))
    for value in net.state_dict().values():
        value.copy_(100 * torch.rand(value.shape))
    torch.save(net.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    expected = {name: value.numpy() for name, value in net.state_dict().items()}
    assert len(expected) == 500
    same(read_without_torch(tmp_path / "a.pth"), expected)
    same(read_torch(tmp_path / "a.pth"), expected)


@both_formats
def test_torch_reads_the_files_written_here(tmp_path, write):
    """So that what is tested without torch are torch's files."""
    torch = pytest.importorskip("torch")
    value = {"w": FOUR, "t": tensor(Storage("BFloat16", "1", 4), (2, 2), (1, 2))}
    records = FOUR_RECORDS | {"1": bytes.fromhex("803f 49c0 807f 0000")}
    more = {"counts": {"0": 4, "1": 4}} if write is write_legacy else {}
    path = write(tmp_path / "a.pth", value, records, **more)
    loaded = torch.load(path, weights_only=True)
    assert loaded["w"].tolist() == [0, 1, 2, 3]
    assert loaded["t"].dtype == torch.bfloat16
    assert loaded["t"].float().tolist() == [[1, np.inf], [-3.140625, 0]]
    np.testing.assert_array_equal(read_without_torch(path)["t"], loaded["t"].float().numpy())


@both_savings
@both_readers
def test_what_torch_saves_cut_short(tmp_path, new, read):
    torch = pytest.importorskip("torch")
    whole = tmp_path / "whole.pth"
    value = {"a": torch.randn(20, 10), "b": torch.nn.Parameter(torch.randn(30))}
    torch.save(value, whole, _use_new_zipfile_serialization=new)
    data = whole.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in [*range(0, len(data) - 30, 37), *range(len(data) - 30, len(data))]:
        cut.write_bytes(data[:length])
        refused(read, cut, "")


@both_readers
def test_tensors_that_numpy_has_not(tmp_path, read):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "a.pth")
    refused(read, tmp_path / "a.pth", "torch._utils._rebuild_sparse_tensor", UnsafeFile)


@both_savings
@both_readers
def test_whole_modules_are_refused(tmp_path, new, read):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    refused(read, tmp_path / "a.pth", "load torch.nn.modules.linear.Linear:", UnsafeFile)
