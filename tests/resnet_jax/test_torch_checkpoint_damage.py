"""resnet_jax/weights/torch_checkpoint.py: damaged files, and files of other formats."""

import os
import pickle
import tarfile
import tracemalloc
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from resnet_jax.weights.torch_checkpoint import read_without_torch
from resnet_jax.weights.unpickler import UnsafeFile
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
    pickled,
    refused,
    system,
    tensor,
    write_legacy,
    write_zip,
)

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
def test_missing_record(tmp_path, read):
    refused(read, write_zip(tmp_path / "a.pth", FOUR, {"1": floats(0, 1, 2, 3)}), "data/0")


@pytest.mark.parametrize("records", [{}, {"1": floats(0)}, FOUR_RECORDS | {"1": floats(0)}])
def test_storages_that_are_not_those_of_the_tensors(tmp_path, records):
    path = write_legacy(tmp_path / "a.pth", FOUR, records)
    refused(read_without_torch, path, "the list of storages does not match the tensors")


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
    refused(read, write(tmp_path / "a.pth", evil, {}), "something that is not a storage")


@both_readers
def test_view_beyond_its_storage(tmp_path, read):
    for view in (("v", 3, 2), ("v", -1, 2), ("v", 1, -1)):
        value = tensor(Storage("Float", "0", 4, view), (1,), (1,))
        path = write_legacy(tmp_path / "a.pth", value, FOUR_RECORDS)
        refused(read_without_torch, path, "a view reaches beyond storage 0 of 4")


@both_readers
@both_formats
def test_dict_with_changed_methods(tmp_path, write, read):
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


# Files of other formats


@both_readers
def test_text(tmp_path, read):
    path = tmp_path / "a.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(read, path, "not a torch file: it starts with b'version https://'")
    path.write_bytes(b"")
    refused(read, path, "not a torch file: it is empty")


@both_readers
def test_pickle_of_another_object(tmp_path, read):
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"w": [1.0]}, 2))
    refused(read, path, "not a torch file: a pickle with another beginning")
    mark = tmp_path / "it-ran"
    path.write_bytes(pickle.dumps(system(f"touch {mark}"), 2))
    refused(read, path, f"refuses to load {os.name}.system", UnsafeFile)
    assert not mark.exists()


@both_readers
def test_other_archives(tmp_path, read):
    np.savez(tmp_path / "a.npz", w=np.zeros(3))
    refused(read, tmp_path / "a.npz", "not a torch file: a zip archive with 0 */data.pkl, not one")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    refused(read, tmp_path / "a.tar", "a file of torch < 0.1.10 (a tar archive) is too old")
    path = write_zip(tmp_path / "a.pth", FOUR, FOUR_RECORDS, byteorder=b"middle")
    refused(read, path, "byteorder 'middle': little or big")


@both_readers
def test_no_file_or_a_directory(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read(tmp_path / "none.pth")
    refused(read, tmp_path, "IsADirectoryError")
