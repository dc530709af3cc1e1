"""Chooses the held-out examples of a data set that has only one split.

A file is held out if the hash of its name, in [0, 1), is below the fraction f. So the choice for
one file does not depend on any other file, on their order, or on the name of the data's folder.
Files may be added or removed, and an evaluation never has a file that was trained on. The price is
that the share is exact only in expectation: of n files, n * f are held out with a standard
deviation of sqrt(n * f * (1 - f)). Examples for f = 0.2: of 500 photos, 100 +- 9 (82 to 118 in 95 %
of all cases); of a class of 50, 10 +- 3; a class of 10 has no held-out file with a probability of
11 %. An exact share of each class (for example, its files with the smallest hashes) would depend on
the number of files, and one new file would move others.

Arrays never change, so the exact share of each class is held out.
"""

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np


def held_out_by_name(names: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Holds out files by a hash of each file's name.

    Args:
      names: paths relative to the data's folder, including the class, separated by "/". The two
        Unicode forms of an accented letter (macOS writes NFD) are equivalent.
      fraction: 0 to 1. Files held out by a smaller fraction are also held out by a larger one.
      seed: another seed holds out other files.

    Returns:
      bool [N], True: held out.
    """
    return np.array([_hash(name, seed) < fraction for name in names], bool)


def _hash(name: str, seed: int) -> float:
    """Uniform in [0, 1): the first 64 bits of SHA-256."""
    text = f"{seed}/{unicodedata.normalize('NFC', name)}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def held_out_by_place(count: int, fraction: float, seed: int) -> np.ndarray:
    """Holds out a random share of the whole list: the rule of runs before `held_out_by_name`.

    Returns:
      bool [count], True: held out.
    """
    order = np.random.default_rng(seed).permutation(count)
    mask = np.zeros(count, bool)
    mask[order[: round(count * fraction)]] = True
    return mask


def held_out_by_class(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Holds out the exact share of all examples, and of each class up to rounding.

    Args:
      labels: int [N]. The result depends on all of them, so they must never change.

    Returns:
      bool [N], of which round(N * fraction) are True (held out). Of a class of n examples,
      n * fraction are held out, rounded up in the classes with the largest remainders and down in
      the others (Hamilton's method).
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
