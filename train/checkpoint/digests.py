"""Checksums of arrays, equal on the host and on any mesh.

The bits of an element are one or more words, which are converted to 32 bits. Each word, plus its
position times an odd constant, is hashed by the finaliser of MurmurHash3 (Appleby 2011), a
bijection of 32 bits. The hashes are summed modulo 2^32. A sum of integers does not depend on its
order, so the checksum does not depend on the sharding. A single changed word always changes the
checksum. Several changed words, or swapped words, are missed with a probability of 2^-32.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_POSITION = 0x9E3779B9
_FIRST, _SECOND = 0x85EBCA6B, 0xC2B2AE35  # MurmurHash3's fmix32
_BLOCK = 1 << 16  # number of words that fit into the cache of a core


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, such as "params/head/kernel", in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def describe(array: Any) -> str:
    """An array's dtype and shape: "float32[3,3,16,32]"."""
    dtype = getattr(array.dtype, "numpy_dtype", array.dtype)  # TensorStore has its own dtypes
    return f"{np.dtype(dtype).name}[{','.join(map(str, array.shape))}]"


def digests(tree: Any) -> dict[str, str]:
    """dtype, shape and checksum of each array of a tree, by path, computed on its devices.

    Every process that holds a part of the arrays must call it. All get the whole result.
    """
    # One after the other: `Window.add` explains the problem with too many pending computations.
    return {name: _format(leaf, int(_sum(leaf))) for name, leaf in named(tree).items()}


def _sum(array: jax.Array) -> int | jax.Array:
    if not array.is_fully_replicated:
        return _device_sum(array)
    copy = array.addressable_data(0)  # one device is enough
    on_host = copy.devices().pop().platform == "cpu"  # NumPy needs no compilation
    return _host_sum(np.asarray(copy)) if on_host else _device_sum(copy)


def host_digest(array: np.ndarray) -> str:
    """The digest of an array, as in `digests`, computed on the host."""
    return _format(array, _host_sum(array))


def _format(array: Any, total: int) -> str:
    return f"{describe(array)} {total:08x}"


def _host_sum(array: np.ndarray) -> int:
    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view({1: np.uint8, 2: np.uint16}.get(flat.dtype.itemsize, np.uint32))
    total = 0
    for start in range(0, words.size, _BLOCK):
        block = words[start : start + _BLOCK].astype(np.uint32)
        position = np.arange(start, start + block.size, dtype=np.uint64).astype(np.uint32)
        total += int(_mix(block, position, np.uint32).sum(dtype=np.uint64))
    return total % 2**32


@jax.jit
def _device_sum(array: jax.Array) -> jax.Array:
    size = np.dtype(array.dtype).itemsize
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = lax.bitcast_convert_type(array, {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32))
    # The position is computed from one iota per axis, which keeps the sharding of the array.
    position = jnp.zeros((), jnp.uint32)
    for axis in range(words.ndim):
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        position = position + lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    return _mix(words.astype(jnp.uint32), position, jnp.uint32).sum(dtype=jnp.uint32)


def _mix(words: Any, position: Any, uint32: Any) -> Any:
    x = words + position * uint32(_POSITION)
    x = (x ^ (x >> uint32(16))) * uint32(_FIRST)
    x = (x ^ (x >> uint32(13))) * uint32(_SECOND)
    return x ^ (x >> uint32(16))
