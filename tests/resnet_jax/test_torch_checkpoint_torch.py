"""resnet_jax/weights/torch_checkpoint.py: files that torch writes, and torch reading ours."""

import collections
from typing import Any

import numpy as np
import pytest

from resnet_jax.weights import torch_checkpoint
from resnet_jax.weights.torch_checkpoint import read_torch, read_without_torch
from resnet_jax.weights.unpickler import UnsafeFile
from tests.resnet_jax.test_torch_checkpoint import (
    FOUR,
    FOUR_RECORDS,
    Storage,
    both_formats,
    both_readers,
    refused,
    tensor,
    write_legacy,
)

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

    monkeypatch.setattr(torch_checkpoint, "read_without_torch", never)
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
    """This shows that the files in tests without torch are valid torch files."""
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
