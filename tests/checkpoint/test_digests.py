"""Digests: equal on any device and sharding, and different for different arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.checkpoint.digests import _device_sum, digests, host_digest, named

TYPES = ["float32", "bfloat16", "float16", "int32", "uint8", "int8", "bool", "float64", "int64"]


def random_bits(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    size = jnp.dtype(dtype).itemsize
    words = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 256, (*shape, size))
    return words.astype(np.uint8).view(jnp.dtype(dtype)).reshape(shape)


def by_hand(words: list[int]) -> int:
    """MurmurHash3's fmix32 of each word and its position, with Python's integers."""
    total = 0
    for place, word in enumerate(words):
        x = (word + place * 0x9E3779B9) % 2**32
        x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        total += x ^ x >> 16
    return total % 2**32


def test_by_hand():
    array = np.array([[1.0, -2.0, 0.0], [np.nan, 1e-45, 3.0]], np.float32)
    words = [int(word) for word in array.reshape(-1).view(np.uint32)]
    assert host_digest(array) == f"float32[2,3] {by_hand(words):08x}"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5, 4)])
def test_the_device_and_the_host_agree(dtype, shape):
    array = random_bits(dtype, shape)
    with jax.enable_x64(dtype.endswith("64")):
        on_device = jnp.asarray(array)
        assert on_device.dtype == array.dtype
        assert host_digest(array).endswith(f"] {_device_sum(on_device):08x}")
        assert digests({"a": on_device}) == {"a": host_digest(array)}


def test_more_than_a_block():
    array = random_bits("float32", (3, 50_000))
    assert digests([jnp.asarray(array)])["0"] == host_digest(array)
    assert host_digest(array).endswith(f"{_device_sum(array):08x}")


def test_any_sharding(devices):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    array = random_bits("float32", (8, 4, 16))
    for parts in [(), ("data",), (None, "fsdp"), ("fsdp", None, "data"), (("data", "fsdp"),)]:
        lying = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*parts)))
        assert digests({"a": lying}) == {"a": host_digest(array)}, parts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_every_bit_counts(dtype):
    array = random_bits(dtype, (4, 3))
    seen = {host_digest(array)}
    for bit in range(array.nbytes * 8):
        changed = array.copy()
        changed.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << bit % 8
        seen.add(host_digest(changed))
    assert len(seen) == array.nbytes * 8 + 1


def test_places_shapes_and_types_count():
    """Also two arrays that differ in signs only, which a weighted sum of words would miss."""
    array = np.array([1.0, -1.0, 0.0, -0.0], np.float32)
    others = [array[[1, 0, 2, 3]], array[[0, 1, 3, 2]], array[::-1], array.reshape(2, 2)]
    others += [array.view(np.int32), np.append(array, np.float32(0))]
    assert len({host_digest(other) for other in [array, *others]}) == 7


def test_names_are_paths():
    assert list(named({"b": [0, {"x": 1}], "a": 2})) == ["a", "b/0", "b/1/x"]
