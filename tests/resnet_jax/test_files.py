"""resnet_jax/weights/files.py: the memory of a file is checked before it is read."""

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from resnet_jax import WeightsError, load_weights
from resnet_jax.weights.files import Needed, read_tensors
from resnet_jax.weights.torch_checkpoint import read_torch, read_without_torch
from tests.resnet_jax.test_torch_checkpoint import Storage, pickled, tensor, write_zip

NEEDED = Needed("the weights of a network", 1_000_000)
GB = 2**30


def npz(path: Path, **members: bytes) -> Path:
    """A deflated .npz of members that are npy files already."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def header(shape: tuple[int, ...], dtype: str = "<f4", version: tuple[int, int] = (1, 0)) -> bytes:
    """The beginning of an npy file."""
    file = io.BytesIO()
    content = {"descr": dtype, "fortran_order": False, "shape": shape}
    writer = {(1, 0): np.lib.format.write_array_header_1_0}
    writer.get(version, np.lib.format.write_array_header_2_0)(file, content)
    return file.getvalue()


class Zeros:
    """A stream of zero bytes that takes no memory."""

    def __init__(self, count: int) -> None:
        self.count = count

    def write_to(self, archive: zipfile.ZipFile, name: str, before: bytes = b"") -> None:
        with archive.open(name, "w", force_zip64=True) as file:
            file.write(before)
            for _ in range(self.count >> 20):
                file.write(b"\0" * 2**20)


def inflating_npz(path: Path) -> Path:
    """A valid file: half a gigabyte of zeros in half a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        Zeros(GB // 2).write_to(archive, "w.npy", header((GB // 8,)))
    return path


def inflating_pth(path: Path) -> Path:
    value = {"w": tensor(Storage("Float", "0", GB // 8), (GB // 8,), (1,))}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        Zeros(GB // 2).write_to(archive, "archive/data/0")
    return path


def claiming_npz(path: Path) -> Path:
    return npz(path, w=header((2**40,)))


def claiming_npz_2(path: Path) -> Path:
    """Many dimensions, whose product overflows in 64 bits; another version of the format."""
    return npz(path, w=header((2**40, 2**40), version=(2, 0)))


def expanded_pth(path: Path) -> Path:
    """A view that repeats one number; float32 would make all of them."""
    one = Storage("Float", "0", 1)
    return write_zip(path, {"w": tensor(one, (2**20, 2**20), (0, 0))}, {"0": b"\0" * 4})


def expanded_bfloat16(path: Path) -> Path:
    one = Storage("BFloat16", "0", 1)
    return write_zip(path, {"w": tensor(one, (2**20, 2**20), (0, 0))}, {"0": b"\0" * 2})


BOMBS: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "deflated npz": ("a.npz", inflating_npz, "536.9 MB"),
    "deflated pth": ("a.pth", inflating_pth, "536.9 MB"),
    "npz of 4 TB": ("a.npz", claiming_npz, "4.4 TB"),
    "npz of more than 64 bits": ("a.npz", claiming_npz_2, "4835703.3 EB"),
    "expanded view": ("a.pth", expanded_pth, "4.4 TB"),
    "expanded bfloat16": ("a.pth", expanded_bfloat16, "4.4 TB"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_file_that_would_fill_the_memory_is_refused_by_its_header(case, tmp_path):
    name, write, takes = BOMBS[case]
    path = write(tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as caught:
            read_tensors(path, NEEDED)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: would take {takes} in memory; the file has ")
    assert message.endswith(", and the weights of a network take 1.0 MB")
    assert peak < 20e6


def test_a_file_that_is_as_large_as_it_says_is_read(tmp_path, monkeypatch):
    """Also for a small network: checkpoints have an optimiser's state and more."""
    from resnet_jax.weights import files

    np.savez(tmp_path / "a.npz", w=np.zeros(1000, np.float32))
    tight = Needed("nothing", 0)
    monkeypatch.setattr(files, "_SLACK", 0)
    assert read_tensors(tmp_path / "a.npz", tight)["w"].shape == (1000,)
    np.savez_compressed(tmp_path / "b.npz", w=np.zeros(10_000, np.float32))
    with pytest.raises(WeightsError, match=r"would take 40\.1 kB in memory; the file has"):
        read_tensors(tmp_path / "b.npz", tight)
    # 16 times the needed size, because a run saves more than its weights
    assert read_tensors(tmp_path / "b.npz", Needed("some", 2_600))["w"].shape == (10_000,)


def test_the_message_names_the_network(tmp_path):
    path = claiming_npz(tmp_path / "a.npz")
    with pytest.raises(WeightsError) as caught:
        load_weights(path, "resnet8_cifar")
    # 75,290 parameters, and the mean and variance of 7 norms' 240 channels
    assert 4 * (75_290 + 2 * 240) == 303_080
    assert str(caught.value).endswith("and the weights of resnet8_cifar take 303.1 kB")


def test_without_a_network_a_gigabyte_is_allowed(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros(10**6, np.float32))
    assert read_tensors(tmp_path / "a.npz")["w"].shape == (10**6,)
    with pytest.raises(WeightsError, match=r"would take 4\.4 TB in memory; the file has 188 byt"):
        read_tensors(claiming_npz(tmp_path / "b.npz"))


def test_an_array_that_is_shorter_than_its_header_says(tmp_path):
    """Small enough to be allowed, and still not allocated."""
    path = npz(tmp_path / "a.npz", w=header((1000, 10)) + b"\0" * 400)
    with pytest.raises(WeightsError, match=r"damaged: w\.npy has 528 bytes for an array of 40\.0"):
        read_tensors(path, NEEDED)


@pytest.mark.parametrize("read", [read_torch, read_without_torch])
def test_both_readers_check_the_size_before_they_inflate(tmp_path, read):
    asked = []

    def check(nbytes: int) -> None:
        asked.append(nbytes)
        raise ValueError("too many")

    with pytest.raises(ValueError, match="too many"):
        read(inflating_pth(tmp_path / "a.pth"), check)
    assert len(asked) == 1 and GB // 2 < asked[0] < GB // 2 + 1000


@pytest.mark.parametrize(
    "dtype, name",
    [(ml_dtypes.float8_e4m3fn, "F8_E4M3"), (ml_dtypes.float8_e5m2, "F8_E5M2")],
)
def test_8_bit_floats_are_named_with_what_to_do(dtype, name, tmp_path):
    path = tmp_path / "a.safetensors"
    weights = np.ones(3, np.float32)
    save_file({"a": weights, "fc.weight": weights.astype(dtype)}, path)
    with pytest.raises(WeightsError) as caught:
        read_tensors(path)
    assert str(caught.value) == (
        f"{path}: fc.weight is of type {name}, which is not read; convert the file to F16, BF16 or "
        "F32 (in torch: tensor.to(torch.float16))"
    )


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", ml_dtypes.bfloat16, "i8", "i4", "i2", "i1", "u1", "?"]
)
def test_every_other_type_of_safetensors_is_read(dtype, tmp_path):
    save_file({"w": np.ones(3, dtype)}, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors")["w"].tolist() == [1, 1, 1]
