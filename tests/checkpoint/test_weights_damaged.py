"""resnet_jax/weights/convert.py: files that are damaged, unsafe, or of another network."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resnet_jax import (
    WeightsError,
    from_tensors,
    load_weights,
    save_weights,
)
from resnet_jax.weights.convert import read_tensors, torch_shapes
from resnet_jax.weights.unpickler import UnsafeFile
from tests.resnet_jax.test_convert import (
    CIFAR,
    SHALLOW,
    STATS,
    SUFFIXES,
    A,
    random_variables,
    says,
    torch_file,
    torch_tensors,
)
from tests.resnet_jax.test_torch_checkpoint import Call, Name


def write(path: Path) -> Path:
    """The weights of the network `CIFAR`."""
    if path.suffix == ".pth":
        return torch_file(path, torch_tensors(CIFAR))
    save_weights(random_variables(CIFAR), path, CIFAR)
    return path


def refused(path: Path, *parts: str) -> None:
    """The message of both readers, which must begin with the name of the file."""
    readers: tuple[Callable, ...] = (read_tensors, lambda file: load_weights(file, CIFAR))
    for reader in readers:
        with pytest.raises(WeightsError) as caught:
            reader(path)
        message = says(caught, *parts)
        assert message.startswith(f"{path}: ") and message.count(str(path)) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_file(suffix, tmp_path):
    for path in (tmp_path / f"none{suffix}", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(path))}: no such file$"):
            load_weights(path, CIFAR)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_cut_short(suffix, tmp_path):
    path = write(tmp_path / f"a{suffix}")
    load_weights(path, CIFAR)
    data = path.read_bytes()
    what = {
        ".safetensors": "not a complete safetensors file (",
        ".npz": "not a complete npz file",
        ".pth": "",
    }
    for length in (0, 1, 7, 100, len(data) // 2, len(data) - 1000, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError) as caught:
            read_tensors(path)
        assert says(caught, what[suffix]).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/v1\n", "[1]", "\n"])
def test_text(text, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_text(text)
    what = {".safetensors": "safetensors file", ".npz": "npz file", ".pth": "not a torch file"}
    refused(path, what[suffix])
    with pytest.raises(WeightsError) as caught:
        read_tensors(path)
    assert "pickle" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_npz(compressed, tmp_path):
    """Each byte is changed in turn: the file is read, or there is one clear error."""
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    (np.savez_compressed if compressed else np.savez)(good, w=np.arange(30.0))
    data, errors = good.read_bytes(), 0
    for place in range(len(data)):
        bad.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            read_tensors(bad)
        except WeightsError as error:
            assert str(error).startswith(f"{bad}: ")
            errors += 1
    assert errors > len(data) / 4


class Marker:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_npz_with_pickled_objects(tmp_path):
    path, mark = tmp_path / "a.npz", tmp_path / "it-ran"
    objects = np.empty(1, object)
    objects[0] = Marker(mark)
    np.savez(path, allow_pickle=True, w=np.zeros(3), evil=objects)
    refused(path, "Object arrays cannot be loaded")
    assert not mark.exists()
    with np.load(path, allow_pickle=True) as file:
        assert file["evil"].shape == (1,) and mark.exists()


def test_pickle_that_holds_code(tmp_path):
    path, mark = tmp_path / "a.pth", tmp_path / "it-ran"
    call = Call(Name(f"{os.name}.mkdir"), (str(mark),))
    for content in ({"state_dict": {"w": A}, "args": call}, call):
        torch_file(path, content)
        with pytest.raises(UnsafeFile) as caught:
            load_weights(path, CIFAR)
        assert says(caught, f"refuses to load {os.name}.mkdir").startswith(f"{path}: ")
    path.write_bytes(pickle.dumps(Marker(mark), 2))
    with pytest.raises(UnsafeFile, match="mkdir"):
        load_weights(path, CIFAR)
    assert not mark.exists()


def test_npz_of_something_else(tmp_path):
    path = tmp_path / "a.npz"
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(path)
    refused(path, "not a complete npz file")
    torch_file(path, {"w": A})
    refused(path, "'archive/data.pkl' is of type bytes")
    np.savez(path, w=np.zeros(3), name=np.array("resnet"))
    refused(path, "'name' is of type <U6")
    np.savez(path, w=np.array([1j]))
    refused(path, "'w' is of type complex128")
    np.savez(path)
    refused(path, "holds an empty dict, not a state dict")


def test_checkpoint_of_something_else(tmp_path):
    path = tmp_path / "a.pth"
    cases: list[tuple[Any, str]] = [
        ({}, "holds an empty dict, not a state dict"),
        ({"epoch": 1, "state_dict": {}}, "holds an empty dict, not a state dict"),
        ([A], "holds a list, not a state dict"),
        (A, "holds a ndarray, not a state dict"),
        (None, "holds a NoneType, not a state dict"),
        ({"state_dict": {"w": A, "lr": 0.1}}, "holds no state dict: 'lr' is of type float"),
        ({"state_dict": {"w": [A]}}, "'w' is of type list"),
        ({"state_dict": None}, "'state_dict' is of type NoneType"),
        ({"network": {"w": A}}, "'state_dict', 'model'"),
        ({0: A}, "holds no state dict: 0 is of type"),
    ]
    for content, part in cases:
        torch_file(path, content)
        refused(path, part)


# --- weights of something else -------------------------------------------------------------------


def test_misfits_are_listed(tmp_path):
    """The message has the first three of each kind, and their number."""
    tensors = torch_tensors(CIFAR)
    for key in ("bn1.weight", "bn1.bias"):
        del tensors[key]
    tensors |= {f"layer4.0.conv{i}.weight": A for i in (1, 2, 3, 4)}
    tensors["conv1.weight"] = tensors["conv1.weight"].transpose(2, 3, 1, 0)
    torch_file(tmp_path / "a.pth", tensors)
    with pytest.raises(WeightsError) as caught:
        load_weights(tmp_path / "a.pth", CIFAR)
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'a.pth'}: not the weights of {CIFAR}",
        "  2 missing: bn1.bias; bn1.weight",
        "  4 unexpected: layer4.0.conv1.weight; layer4.0.conv2.weight; layer4.0.conv3.weight ...",
        "  1 of another shape: conv1.weight (3, 3, 3, 16), not (16, 3, 3, 3)",
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_of_another_network(suffix, tmp_path):
    path = write(tmp_path / f"a{suffix}")
    with pytest.raises(WeightsError) as caught:
        load_weights(path, "resnet14_cifar")
    first = "layer1.1.bn1.running_mean" if suffix != ".npz" else f"{STATS}/stage1/block2/norm1/mean"
    message = says(caught, f"{path}: not the weights of resnet14_cifar\n  30 missing: {first}; ")
    assert "unexpected" not in message and "shape" not in message  # resnet8 is a part of it
    with pytest.raises(WeightsError) as caught:
        load_weights(path, CIFAR, width=8)
    message = says(caught, f"not the weights of {CIFAR}\n  36 of another shape: ")  # bias is not
    assert "missing" not in message and "head='reset'" not in message
    with pytest.raises(WeightsError) as caught:
        load_weights(path, "resnetv2_18", head="reset", **SHALLOW)
    says(caught, "not the weights of resnetv2_18\n", " missing: ", " unexpected: ")


def test_one_tensor_too_many_or_too_few():
    """No tensor is used or ignored silently."""
    tensors = torch_tensors(CIFAR)
    for key in tensors:
        rest = {other: value for other, value in tensors.items() if other != key}
        advice = "\n  Only the head" if key.startswith("fc.") else "$"
        with pytest.raises(WeightsError, match=f"\n  1 missing: {re.escape(key)}{advice}"):
            from_tensors(rest, CIFAR)
    with pytest.raises(WeightsError, match=r"\n  1 unexpected: extra$"):
        from_tensors({**tensors, "extra": A}, CIFAR)
    ours = flatten_dict(from_tensors(tensors, CIFAR), sep="/")
    with pytest.raises(WeightsError, match=r"\n  1 unexpected: fc\.weight$"):
        from_tensors({**ours, "fc.weight": A}, CIFAR)  # ours and torch's at once
    with pytest.raises(WeightsError, match=r"37 missing: .*"):
        from_tensors({}, CIFAR)


def test_unknown_names_and_fields(tmp_path):
    path, tensors = write(tmp_path / "a.npz"), torch_tensors(CIFAR)
    variables = random_variables(CIFAR)
    calls: tuple[Callable, ...] = (
        lambda name, **changes: load_weights(path, name, **changes),
        lambda name, **changes: from_tensors(tensors, name, **changes),
        lambda name, **changes: save_weights(variables, tmp_path / "b.npz", name, **changes),
        lambda name, **changes: torch_shapes(name, **changes),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"unknown model 'resnet8_cif': .*mean resnet8_cifar"):
            call("resnet8_cif")
        with pytest.raises(ValueError, match=r"unknown option 'widht' of .*choose from .*width"):
            call(CIFAR, widht=[8])
        with pytest.raises(ValueError, match="width 'wide': needs int"):
            call(CIFAR, width="wide")
    for call in calls[:2]:
        with pytest.raises(ValueError, match="num_classes 0: must be at least 1"):
            call(CIFAR, num_classes=0)
    assert os.listdir(tmp_path) == ["a.npz"]
