"""A checksum of every array of a tree: the same on any mesh, and the same on the host.

Each element's bits are words of 32 bits. A word, plus its place times an odd constant, goes through
the finaliser of MurmurHash3 (Appleby 2011), a bijection of 32 bits, and the results are summed
modulo 2^32. A sum of integers does not depend on its order, so every sharding gives the same. One
changed word always changes it; words that changed places, or several that changed, go unseen once
in 2^32.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_PLACE = 0x9E3779B9
_FIRST, _SECOND = 0x85EBCA6B, 0xC2B2AE35  # MurmurHash3's fmix32
_BLOCK = 1 << 16  # words that fit a core's cache


def named(tree: Any) -> dict[str, Any]:
    """A tree's leaves by their paths, "params/head/kernel", in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def describe(array: Any) -> str:
    """An array's dtype and shape: "float32[3,3,16,32]"."""
    dtype = getattr(array.dtype, "numpy_dtype", array.dtype)  # TensorStore has dtypes of its own
    return f"{np.dtype(dtype).name}[{','.join(map(str, array.shape))}]"


def digests(tree: Any) -> dict[str, str]:
    """dtype, shape and checksum of each of a tree's arrays, by path, computed where they are.

    Every process that holds a part of the arrays must call it, and gets all of the result.
    """
    # One after the other: see `Window.add` for what too many at once do.
    return {name: _say(leaf, int(_sum(leaf))) for name, leaf in named(tree).items()}


def _sum(array: jax.Array) -> int | jax.Array:
    if not array.is_fully_replicated:
        return _device_sum(array)
    copy = array.addressable_data(0)  # the other devices need not repeat the work
    on_host = copy.devices().pop().platform == "cpu"  # where nothing has to be compiled
    return _host_sum(np.asarray(copy)) if on_host else _device_sum(copy)


def host_digest(array: np.ndarray) -> str:
    """What `digests` says of an array, computed on the host."""
    return _say(array, _host_sum(array))


def _say(array: Any, total: int) -> str:
    return f"{describe(array)} {total:08x}"


def _host_sum(array: np.ndarray) -> int:
    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view({1: np.uint8, 2: np.uint16}.get(flat.dtype.itemsize, np.uint32))
    total = 0
    for start in range(0, words.size, _BLOCK):
        block = words[start : start + _BLOCK].astype(np.uint32)
        place = np.arange(start, start + block.size, dtype=np.uint64).astype(np.uint32)
        total += int(_mix(block, place, np.uint32).sum(dtype=np.uint64))
    return total % 2**32


@jax.jit
def _device_sum(array: jax.Array) -> jax.Array:
    size = np.dtype(array.dtype).itemsize
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = lax.bitcast_convert_type(array, {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32))
    # A place made from one iota for each axis keeps the array as it lies, sharded or not.
    place = jnp.zeros((), jnp.uint32)
    for axis in range(words.ndim):
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        place = place + lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    return _mix(words.astype(jnp.uint32), place, jnp.uint32).sum(dtype=jnp.uint32)


def _mix(words: Any, place: Any, uint32: Any) -> Any:
    x = words + place * uint32(_PLACE)
    x = (x ^ (x >> uint32(16))) * uint32(_FIRST)
    x = (x ^ (x >> uint32(13))) * uint32(_SECOND)
    return x ^ (x >> uint32(16))
