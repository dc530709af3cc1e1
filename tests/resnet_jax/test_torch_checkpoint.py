"""resnet_jax/weights/torch_checkpoint.py on files written by hand and, if installed, by torch."""

import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from resnet_jax.weights import torch_checkpoint
from resnet_jax.weights.torch_checkpoint import read_torch, read_without_torch

HEADER = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})


class Name(str):
    """MODULE.NAME, which a pickle has loaded."""


class Call(NamedTuple):
    """The call of a `Name` in a pickle; with `state`, attributes that are set after it."""

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
    """Checks the error: exactly this type, one line that starts with the file and has `reason`."""
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
    """A file with 2^40 references to one list is read at once."""
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
    monkeypatch.setattr(torch_checkpoint, "read_without_torch", lambda path, check: f"{path} read")
    assert read_torch(path) == f"{path} read"


# Refusing to run code of a file


class Reduced:
    def __init__(self, function: Any, *args: Any):
        self.reduced = function, args

    def __reduce__(self) -> tuple:
        return self.reduced


def system(command: str) -> Reduced:
    return Reduced(os.system, command)
