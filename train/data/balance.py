"""Class-balanced sampling: rare classes are trained on more often than they occur.

The order of the training examples becomes this. Class k has a share of every epoch of N examples:
1 / K of it with "inverse", and sqrt(n_k) / sum_j sqrt(n_j) with "sqrt_inverse", for n_k examples of
the class. The share is exact up to one example. A class is a stream of its own: pass after pass,
each a random permutation of its examples, so that none is repeated before all were used. An epoch
takes the next part of each stream and shuffles the parts together. All is a function of (seed,
epoch): no state is saved.

An example is augmented by the number of its pass instead of the epoch. So the repetitions of one
image in an epoch differ.
"""

import functools
import threading
from dataclasses import dataclass

import numpy as np

from train.config import ConfigError, DataConfig
from train.data.sources import Source
from train.data.sources.labels import read_labels

_lock = threading.Lock()
_PASS, _EPOCH = 1, 2  # kinds of permutations, each with its own random numbers


@dataclass(frozen=True, eq=False)
class Balance:
    """The balanced order of the examples with these labels."""

    labels: np.ndarray
    """int [N]."""
    root: bool = False
    """Whether the shares are those of "sqrt_inverse"."""

    @functools.cached_property
    def members(self) -> list[np.ndarray]:
        """int64 [n_k]: the examples of each class that has some."""
        order = np.argsort(self.labels, kind="stable")
        counts = np.bincount(self.labels)
        return np.split(order, np.cumsum(counts[counts > 0])[:-1])

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """float64 [K]: the end of each class in an epoch of which the classes are in order."""
        weights = [np.sqrt(len(each)) if self.root else 1.0 for each in self.members]
        ends = np.cumsum(weights)
        return ends / ends[-1] * len(self.labels)

    def used(self, epochs: int) -> np.ndarray:
        """int64 [K]: how many examples of each class the first epochs have, repetitions counted."""
        return np.diff(np.floor(self._ends * epochs + 0.5).astype(np.int64), prepend=0)

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """int64 [N, 2]: the pass and the index of each example of an epoch, in order."""
        with _lock:  # one thread computes it, and the others wait
            return _epoch(self, seed, epoch)


@functools.lru_cache(maxsize=2)  # prefetched batches may belong to the next epoch
def _epoch(balance: Balance, seed: int, epoch: int) -> np.ndarray:
    starts, stops = balance.used(epoch), balance.used(epoch + 1)
    parts = []
    for number, members in enumerate(balance.members):
        start, stop, count = int(starts[number]), int(stops[number]), len(members)
        for turn in range(start // count, -(-stop // count)):
            first = turn * count
            places = slice(max(start - first, 0), min(stop - first, count))
            order = _permutation(count, seed, (_PASS, number, turn))[places]
            parts.append(np.stack([np.full(len(order), turn), members[order]], axis=-1))
    together = np.concatenate(parts)
    return together[_permutation(len(together), seed, (_EPOCH, epoch))]


def _permutation(count: int, seed: int, kind: tuple[int, ...]) -> np.ndarray:
    permutation = np.arange(count)
    bits = np.random.MT19937(np.random.SeedSequence(seed, spawn_key=kind))
    np.random.RandomState(bits).shuffle(permutation)  # whose numbers never change (NEP 19)
    return permutation


def make_balance(source: Source, data: DataConfig) -> Balance | None:
    """The order of `data.balance`; None: "none".

    Raises:
      ConfigError: `data.order` 1, or an example has several labels.
    """
    if data.balance == "none":
        return None
    if data.order == 1:
        raise ConfigError(f"data.balance {data.balance}: needs data.order 2, not 1")
    if data.multi_label:
        raise ConfigError(
            f"data.balance {data.balance}: needs one label for each image, not data.multi_label; "
            f"loss.class_weights {data.balance} weights the labels"
        )
    return Balance(read_labels(source, data), root=data.balance == "sqrt_inverse")
