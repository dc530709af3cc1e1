"""The order of the training examples: the example at each position of the training stream.

Each epoch is a random permutation of the examples, a function of (seed, epoch). `data.order` is the
version of the algorithm; a run keeps the version that it started with.

Version 2 shuffles a whole epoch with NumPy (Fisher-Yates). Every permutation is equally likely, and
NumPy guarantees that `RandomState` never changes its numbers (NEP 19), so a resume under a later
NumPy is exact. It needs 4 bytes per example, and about 30 ns per example once an epoch: 5 MB and
40 ms for ImageNet.

Version 1 computes one index at a time, without memory, by Grain's `index_shuffle` with 4 rounds. It
is not uniform. With 400 sorted examples, 0.2 % of 2,610 epochs have batches of 32 whose class
counts vary more than 3.5 times (up to 13 times) as much as at random; with 50,000 examples the
counts vary half as much as at random. With 6 or more rounds neither effect is visible, but an index
costs 7 to 100 us, because the cipher has at least 16 bits and is repeated until its output is the
index of an example.

With `augment.repeats` r, the stream has each index of the permutation r times in a row, and an
epoch is as long as before, so that it has only 1/r of the examples. In a batch, the copies of an
example are dealt out as to r processes (timm's RepeatAugSampler): the first rows have the first
copies, the next ones the second copies. So mixup and CutMix, whose partner is the row before, mix
different examples.
"""

import functools
import threading

import numpy as np
from grain.experimental import index_shuffle

from train.data.balance import Balance

_shuffle_lock = threading.Lock()


def example_indices(
    count: int,
    seed: int,
    batch_size: int,
    step: int,
    *,
    order: int = 2,
    repeats: int = 1,
    balance: Balance | None = None,
) -> np.ndarray:
    """The examples of a training step, computed without reading them.

    Args:
      count: number of examples in the source.
      batch_size: global.
      step: counted from 0, as in `train_batches`.
      order, repeats, balance: `data.order`, `augment.repeats`, `data.balance`.

    Returns:
      int64 [batch_size]: indices in the source. They equal the global batch's `index`, except where
      an unreadable example was replaced.
    """
    positions = batch_positions(batch_size, step, step + 1, repeats)
    found = examples_at(count, seed, positions, order=order, repeats=repeats, balance=balance)
    return found[:, 1]


def batch_positions(batch_size: int, start: int, stop: int, repeats: int = 1) -> np.ndarray:
    """Positions in the training stream of the rows of steps `start` up to `stop`.

    Returns:
      int64 [(stop - start) * batch_size].

    Examples:
      >>> batch_positions(6, 1, 2).tolist()
      [6, 7, 8, 9, 10, 11]
      >>> batch_positions(6, 1, 2, repeats=2).tolist()
      [6, 8, 10, 7, 9, 11]
    """
    if repeats == 1:
        return np.arange(start * batch_size, stop * batch_size)
    rows = np.arange(batch_size)
    rows = np.concatenate([rows[copy::repeats] for copy in range(repeats)])
    return (np.arange(start, stop)[:, None] * batch_size + rows).ravel()


def examples_at(
    count: int,
    seed: int,
    positions: np.ndarray,
    *,
    order: int = 2,
    repeats: int = 1,
    balance: Balance | None = None,
) -> np.ndarray:
    """int64 [N, 3]: epoch, index and copy at int64 [N] positions of the training stream.

    The copy is the position modulo `repeats`, counted from the start of the epoch. With `balance`,
    an example has the number of its pass in place of the epoch.
    """
    epochs, places = np.divmod(positions, count)
    places, copies = np.divmod(places, repeats)
    found = np.stack([epochs, places, copies], axis=-1)
    for epoch in sorted({*epochs.tolist()}):
        here = epochs == epoch
        if balance is not None:
            found[here, :2] = balance.epoch(seed, epoch)[places[here]]
        else:
            found[here, 1] = _INDICES[order](count, seed, epoch, places[here])
    return found


def _shuffled(count: int, seed: int, epoch: int, places: np.ndarray) -> np.ndarray:
    # One thread shuffles an epoch and the others wait, so that the work is done once.
    with _shuffle_lock:
        return _permutation(count, seed, epoch)[places]


@functools.lru_cache(maxsize=2)  # prefetched batches may belong to the next epoch
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    permutation = np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)
    bits = np.random.MT19937(np.random.SeedSequence([seed, epoch]))
    np.random.RandomState(bits).shuffle(permutation)
    return permutation


def _enciphered(count: int, seed: int, epoch: int, places: np.ndarray) -> np.ndarray:
    key = _cipher_key(seed, epoch)
    found = [index_shuffle(int(place), max_index=count - 1, seed=key, rounds=4) for place in places]
    return np.array(found, np.int64)


@functools.lru_cache(maxsize=4)
def _cipher_key(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


_INDICES = {1: _enciphered, 2: _shuffled}
