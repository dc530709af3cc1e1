"""Which examples are held out for evaluation, where the data have one split only.

Files are held out by a hash of their own name: a file is in the share if its hash is below the
fraction. So a file that is added or removed moves no other one, and neither does the order of a
listing or the name of the folder that holds the data: an evaluation never meets a file that was
trained on. The price is that the share is exact in expectation only, in each class and in all: of n
files, n * f with a standard deviation of sqrt(n * f * (1 - f)). Of 500 photos and f = 0.2 that is
100 +- 9 (82 to 118 in 95 % of all cases); of a class of 50, 10 +- 3; a class of 10 has none held
out with a probability of 11 %. An exact share in each class, such as its files of the smallest
hashes, depends on how many files there are: one more file would move others.

Arrays that never change have no such wish, and get the exact share of each class.
"""

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np


def held_out_by_name(names: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Which files are held out, each one by its own name.

    Args:
      names: paths relative to the data's folder, with the class, separated by "/". Unicode's two
        spellings of an accented letter (macOS writes the other one) are the same.
      fraction: 0 to 1. What a smaller one holds out, a larger one does too.
      seed: another one chooses others.

    Returns:
      bool [N].
    """
    return np.array([_hash(name, seed) < fraction for name in names], bool)


def _hash(name: str, seed: int) -> float:
    """Uniform in [0, 1): the first 64 bits of SHA-256."""
    text = f"{seed}/{unicodedata.normalize('NFC', name)}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def held_out_by_place(count: int, fraction: float, seed: int) -> np.ndarray:
    """The rule of runs from before `held_out_by_name`: bool [count], drawn from the whole list."""
    order = np.random.default_rng(seed).permutation(count)
    mask = np.zeros(count, bool)
    mask[order[: round(count * fraction)]] = True
    return mask


def held_out_by_class(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """The exact share of all examples, and of each class to less than one example.

    Args:
      labels: int [N]. The result depends on them, so they must never change.

    Returns:
      bool [N], of which round(N * fraction) are True. A class of n examples has n * fraction of
      them, rounded down, or up in the classes with the largest remainders (Hamilton's method).
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels)
    ideal = counts * fraction
    quota = np.floor(ideal).astype(int)
    left = round(len(labels) * fraction) - int(quota.sum())
    quota[np.argsort(quota - ideal, kind="stable")[:left]] += 1
    mask = np.zeros(len(labels), bool)
    for label, held in enumerate(quota):
        places = np.flatnonzero(labels == label)
        mask[rng.permutation(places)[:held]] = True
    return mask
