"""Random numbers of the augmentation: Philox, with a key for each (seed, epoch, index, copy).

`generator` serves one example on the host. `first_words` computes the first numbers of many
examples at once, without the 10 us of Python that NumPy's generator takes for each key.
"""

import threading
from typing import Any

import numpy as np

# Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3 and table 2.
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_ROUNDS = 10
_LOW = 0xFFFFFFFF
_COPY_AT = 48  # the bit of the second word of a key where the copy begins

_ZEROS = np.zeros(4, np.uint64)
_per_thread = threading.local()


def augmentation_key(seed: int, epoch: Any, index: Any, copy: Any = 0) -> tuple[Any, Any]:
    """The Philox key of an example's augmentation: a function of these arguments alone.

    `epoch`, `index` and `copy` (of `augment.repeats`) are integers, or uint64 arrays.
    """
    return seed << 32 | epoch, copy << _COPY_AT | index


def generator(seed: int, epoch: int, index: int, copy: int = 0) -> np.random.Generator:
    """The random generator of an example's augmentation: a function of the arguments alone.

    It draws what a new `Philox(key=augmentation_key(...))` would draw. Each thread has one
    generator, and the next call in the same thread resets it: creating a new one takes 3 times as
    long, because NumPy first reads entropy from the operating system.
    """
    if not hasattr(_per_thread, "generator"):
        _per_thread.generator = np.random.Generator(np.random.Philox(0))
    key = np.array(augmentation_key(seed, epoch, index, copy), np.uint64)
    _per_thread.generator.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": _ZEROS, "key": key},
        "buffer": _ZEROS,
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    return _per_thread.generator


def first_words(keys: np.ndarray) -> np.ndarray:
    """The first four random numbers of every key: Philox4x64-10.

    Row i equals `np.random.Philox(key=keys[i]).random_raw(4)`.

    Args:
      keys: uint64 [N, 2].

    Returns:
      uint64 [N, 4].
    """
    first, second = keys[:, 0].copy(), keys[:, 1].copy()
    zero = np.zeros(len(keys), np.uint64)
    block = [zero + 1, zero, zero, zero]  # NumPy increments the counter before the first draw
    for _ in range(_ROUNDS):
        high_0, low_0 = _product(block[0], _MULTIPLIERS[0])
        high_2, low_2 = _product(block[2], _MULTIPLIERS[1])
        block = [high_2 ^ block[1] ^ first, low_2, high_0 ^ block[3] ^ second, low_0]
        first += _WEYL[0]
        second += _WEYL[1]
    return np.stack(block, axis=-1)


def _product(x: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of x * factor, from products of 32-bit halves."""
    high, low = x >> 32, x & _LOW
    top, bottom = factor >> 32, factor & _LOW
    middle = high * bottom + (low * bottom >> 32)
    carried = low * top + (middle & _LOW)
    return high * top + (middle >> 32) + (carried >> 32), x * factor
