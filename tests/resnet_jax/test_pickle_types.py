"""resnet_jax/weights/pickle_types.py: objects that training programs save with their weights."""

import argparse
import collections
import io
import pathlib
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_jax import WeightsError
from resnet_jax.weights.convert import from_tensors, torch_shapes
from resnet_jax.weights.files import _state_dict, read_tensors
from resnet_jax.weights.pickle_types import find_type
from resnet_jax.weights.torch_checkpoint import read_torch, read_without_torch
from resnet_jax.weights.unpickler import Unpickler, UnsafeFile
from tests.resnet_jax.test_torch_checkpoint import (
    FOUR,
    FOUR_RECORDS,
    Call,
    Name,
    Storage,
    both_formats,
    both_readers,
    floats,
    opcodes,
    refused,
    tensor,
    write_legacy,
    write_zip,
)

# Python's own objects, as torch.save pickles them.
SAVED: dict[str, tuple[Any, Any]] = {
    "timm's and torchvision's args": (
        argparse.Namespace(lr=0.1, data=pathlib.PurePosixPath("/data/x"), sizes=(1, 2), none=None),
        {"lr": 0.1, "data": "/data/x", "sizes": (1, 2), "none": None},
    ),
    "within one another": (
        argparse.Namespace(inner=argparse.Namespace(a=[1])),
        {"inner": {"a": [1]}},
    ),
    "a path": (pathlib.PurePosixPath("a/b.txt"), "a/b.txt"),
    "a path of Windows": (pathlib.PureWindowsPath("C:/a"), "C:\\a"),
    "a float64": (np.float64(76.5), 76.5),
    "a float32": (np.float32(1.5), 1.5),
    "an integer": (np.int64(-7), -7),
    "a truth": (np.bool_(True), True),
    "text": (np.str_("hé"), "hé"),
    "big-endian": (np.array([1, 2], ">i4")[1], 2),
    "a type": (np.dtype("f4"), "float32"),
    "a defaultdict": (collections.defaultdict(list, {"a": [1]}), {"a": [1]}),
    "a deque": (collections.deque([1, 2], maxlen=3), [1, 2]),
    "a frozenset": (frozenset([1, 2]), {1, 2}),
    "bytes": (b"abc\xff", b"abc\xff"),
    "no bytes": (b"", b""),
}


@both_readers
@both_formats
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("case", SAVED)
def test_objects_of_python_and_numpy(tmp_path, write, read, protocol, case):
    value, plain = SAVED[case]
    path = write(tmp_path / "a.pth", pickle.dumps({"x": value}, protocol), {})
    found = read(path)["x"]
    assert found == plain and type(found) is type(plain)


@both_readers
@pytest.mark.parametrize("order", "CF")
def test_arrays_of_numpy(tmp_path, read, order):
    value = np.arange(6, dtype=">f4").reshape(2, 3).copy(order=order)
    found = read(write_zip(tmp_path / "a.pth", pickle.dumps([value], 2), {}))[0]
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, 5]])
    assert found.flags.writeable and found.dtype.kind == "f"


TORCHS: dict[str, tuple[Any, Any]] = {
    "device": (Call(Name("torch.device"), ("cuda", 1)), "cuda:1"),
    "cpu": (Call(Name("torch.device"), ("cpu",)), "cpu"),
    "dtype": (Name("torch.float16"), "torch.float16"),
    "size": (Call(Name("torch.Size"), ((3, 4),)), (3, 4)),
    "path of Python 3.13": (Call(Name("pathlib._local.PosixPath"), ("/", "a")), "/a"),
    "NumPy 1": (
        Call(Name("numpy.core.multiarray.scalar"), (Call(Name("numpy.dtype"), ("f8",)), b"\0" * 8)),
        0.0,
    ),
    "hyperparameters": (Call(Name("pytorch_lightning.utilities.parsing.AttributeDict"), ()), {}),
    "a callback's class": (
        {Name("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"): {"best": 0.5}},
        {"pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": {"best": 0.5}},
    ),
}


@both_readers
@both_formats
@pytest.mark.parametrize("case", TORCHS)
def test_objects_of_torch_and_lightning(tmp_path, write, read, case):
    value, plain = TORCHS[case]
    found = read(write(tmp_path / "a.pth", {"w": FOUR, "x": value}, FOUR_RECORDS))
    assert found["w"].tolist() == [0, 1, 2, 3] and found["x"] == plain


@both_readers
def test_parameter_with_extra_attributes(tmp_path, read):
    args = (FOUR, True, Call(Name("collections.OrderedDict"), ()), {"optim": {"lr": 0.1}})
    value = Call(Name("torch._utils._rebuild_parameter_with_state"), args)
    assert read(write_zip(tmp_path / "a.pth", value, FOUR_RECORDS)).tolist() == [0, 1, 2, 3]


@both_readers
@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "uint16"])
def test_types_of_numbers_that_are_not_read_are_named(tmp_path, read, kind):
    storage = Storage("storage.Untyped", "0", 4)
    hooks = Call(Name("collections.OrderedDict"), ())
    args = (storage, 0, (4,), (1,), False, hooks, Name(f"torch.{kind}"))
    value = {"w": Call(Name("torch._utils._rebuild_tensor_v3"), args)}
    path = write_zip(tmp_path / "a.pth", value, {"0": b"\0" * 4})
    reason = f"holds a tensor of torch.{kind}, which is not read; convert it to torch.float32"
    refused(read, path, reason)


# Nothing runs


@both_readers
@both_formats
def test_other_classes_stay_refused_by_name(tmp_path, write, read):
    """Next to known classes, and inside them."""
    for name in ("mymodule.Config", "pathlib.Path", "argparse.ArgumentParser", "numpy.load"):
        inner = Call(Name(name), ())
        for value in ({"args": inner}, Call(Name("argparse.Namespace"), (), {"a": inner})):
            path = write(tmp_path / "a.pth", {"w": FOUR, "x": value}, FOUR_RECORDS)
            refused(read, path, f"refuses to load {name}: ", UnsafeFile)


def test_a_name_cannot_reach_into_what_it_is_read_as():
    for name in ("argparse.Namespace.make", "argparse.Namespace.__call__", "numpy.dtype.value"):
        assert find_type(name) is None


@pytest.mark.parametrize("state", [{"make": 1}, (None, {"make": 1}), (None, {"__class__": 1})])
def test_a_file_cannot_change_a_replacement(tmp_path, state):
    before = find_type("argparse.Namespace").make
    evil = b"\x80\x02" + opcodes(Name("argparse.Namespace"), False) + opcodes(state, False) + b"b."
    refused(read_torch, write_zip(tmp_path / "a.pth", evil, {}), "")
    assert find_type("argparse.Namespace").make is before


def test_attributes_stay_data(tmp_path):
    """A Namespace may have attributes of any name; none of them is one of the dict's own."""
    state = {"__class__": 1, "__setstate__": 2, "items": 3, "detach": 4}
    value = {"x": Call(Name("argparse.Namespace"), (), state)}
    assert read_torch(write_zip(tmp_path / "a.pth", value, {})) == {"x": state}


@pytest.mark.parametrize(
    "spec", ["O", "V1000000000", "f8,i4", "(1000000,1000000)f8", "object", "M8[s]"]
)
def test_types_of_numpy_are_those_of_numbers(tmp_path, spec):
    value = {"x": Call(Name("numpy.dtype"), (spec,))}
    refused(read_torch, write_zip(tmp_path / "a.pth", value, {}), "numbers and text are read")


def test_a_replaced_class_is_never_imported():
    unpickler = Unpickler(io.BytesIO(), lambda *_: np.zeros(0))
    for module in ("pytorch_lightning.callbacks.not_there", "lightning.pytorch.callbacks"):
        assert unpickler.find_class(module, "Thing") == f"{module}.Thing"


# Whole checkpoints

A = np.arange(4, dtype=np.float32)


def checkpoint(path: Path, content: Any, write: Any = write_zip) -> dict[str, list[float]]:
    """The tensors that are found in a checkpoint; FOUR replaces each of them."""
    file = write(path, content, FOUR_RECORDS)
    return {key: value.tolist() for key, value in read_tensors(file).items()}


NAMESPACE = Call(Name("argparse.Namespace"), (), {"lr": 0.1, "model": "resnet50"})
CHECKPOINTS: dict[str, dict[Any, Any]] = {
    "timm": {"epoch": 3, "arch": "resnet50", "state_dict": {"w": FOUR}, "args": NAMESPACE},
    "torchvision": {"model": {"w": FOUR}, "optimizer": {"state": {}}, "args": NAMESPACE},
    "timm with an average": {
        "state_dict": {"w": tuple()},
        "state_dict_ema": {"module.w": FOUR},
        "args": NAMESPACE,
    },
    "Lightning": {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {"model.w": FOUR, "criterion.weight": FOUR},
        "callbacks": {"ModelCheckpoint{}": {"dirpath": "/x"}},
        "hyper_parameters": Call(Name("lightning.fabric.utilities.data.AttributeDict"), ()),
    },
    "Lightning, compiled": {"state_dict": {"model._orig_mod.w": FOUR}},
    "Lightning, in two layers": {"state_dict": {"net.model.w": FOUR}},
    "DistributedDataParallel of a LightningModule": {"state_dict": {"module.model.w": FOUR}},
}


@both_formats
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_of_training_programs(tmp_path, write, case):
    assert checkpoint(tmp_path / "a.pth", CHECKPOINTS[case], write) == {"w": A.tolist()}


def test_names_of_kuangliu(tmp_path):
    content = {
        "net": {
            "module.layer2.0.shortcut.0.weight": FOUR,
            "module.layer2.0.shortcut.1.bias": FOUR,
            "module.linear.weight": FOUR,
            "module.linear.bias": FOUR,
        },
        "acc": 95.1,
        "epoch": 199,
    }
    names = ("layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias", "fc.weight", "fc.bias")
    assert checkpoint(tmp_path / "a.pth", content) == {name: A.tolist() for name in names}


def test_a_network_of_kuangliu():
    """ResNet-18 for 32x32 images: all names, with the projections that are `shortcut` there."""
    changes = {"stem": "3x3", "stem_pool": "none"}
    shapes = torch_shapes("resnet18", 10, **changes)
    rng = np.random.default_rng(0)
    tensors = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    theirs = {
        re.sub(r"^fc\.", "linear.", key.replace(".downsample.", ".shortcut.")): value
        for key, value in tensors.items()
    }
    assert sum(".shortcut." in key for key in theirs) == 3 * 5
    read = _state_dict({"net": {f"module.{key}": value for key, value in theirs.items()}})
    assert read.keys() == tensors.keys()
    block = from_tensors(read, "resnet18", 10, **changes)["params"]["backbone"]["stage2"]["block1"]
    kernel = tensors["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(block["shortcut_conv"]["kernel"], kernel)


def test_names_that_become_one_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.pth", {"w": FOUR, "module.w": FOUR}, FOUR_RECORDS)
    refused(read_tensors, path, "'w' and 'module.w' are both 'w'", WeightsError)


def test_legacy_storages_together_are_no_longer_than_the_file(tmp_path):
    """Each storage fits; together they are larger than the file."""
    many = [tensor(Storage("Float", str(i), 100), (100,), (1,)) for i in range(50)]
    path = write_legacy(tmp_path / "a.pth", many, {"0": floats(*range(100))})
    refused(read_without_torch, path, "is longer than what the file has left")
