"""Philox for many keys at once: NumPy has it for one, and 10 us of Python around that."""

import numpy as np

# Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3 and table 2.
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_ROUNDS = 10
_LOW = 0xFFFFFFFF


def first_words(keys: np.ndarray) -> np.ndarray:
    """What `np.random.Philox(key=key).random_raw(4)` gives for every key: Philox4x64-10.

    Args:
      keys: uint64 [N, 2].

    Returns:
      uint64 [N, 4].
    """
    first, second = keys[:, 0].copy(), keys[:, 1].copy()
    zero = np.zeros(len(keys), np.uint64)
    block = [zero + 1, zero, zero, zero]  # NumPy counts before it draws
    for _ in range(_ROUNDS):
        high_0, low_0 = _product(block[0], _MULTIPLIERS[0])
        high_2, low_2 = _product(block[2], _MULTIPLIERS[1])
        block = [high_2 ^ block[1] ^ first, low_2, high_0 ^ block[3] ^ second, low_0]
        first += _WEYL[0]
        second += _WEYL[1]
    return np.stack(block, axis=-1)


def _product(x: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of x * factor, by halves."""
    high, low = x >> 32, x & _LOW
    top, bottom = factor >> 32, factor & _LOW
    middle = high * bottom + (low * bottom >> 32)
    carried = low * top + (middle & _LOW)
    return high * top + (middle >> 32) + (carried >> 32), x * factor
