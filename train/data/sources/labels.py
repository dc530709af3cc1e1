"""The labels of a whole split, without its images where that is possible."""

import contextlib
from functools import partial

import numpy as np

from train.config import DataConfig
from train.data.retry import read_again
from train.data.sources.base import Source, counts_of
from train.data.thread_pool import in_threads

_PER_JOB = 256


def read_labels(source: Source, data: DataConfig) -> np.ndarray:
    """int64 [N]: the label of each example; [N, K] with `data.multi_label`.

    A source without a list of labels, such as a TFDS data set, is read once, by `data.threads`
    threads. Its images are not decoded.

    Raises:
      RunError: the storage is down.
    """
    labels = getattr(source, "labels", None)
    if labels is not None:
        return np.asarray(labels, np.int64)

    def one_by_one(rows: range) -> list[int]:
        return [int(source[i].label) for i in rows]

    labels_at = getattr(source, "labels_at", one_by_one)

    def read(rows: range) -> list[int]:
        found, _ = read_again(partial(labels_at, rows), data.retries, source.name(rows.start))
        return found

    count = len(source)
    jobs = [range(i, min(i + _PER_JOB, count)) for i in range(0, count, _PER_JOB)]
    threads = max(data.threads, 1)
    with contextlib.closing(in_threads(read, jobs, threads, 2 * threads)) as found:
        return np.array([label for labels in found for label in labels], np.int64)


def count_labels(source: Source, data: DataConfig) -> np.ndarray:
    """int64 [K]: the number of labels of each class; see `read_labels`."""
    return counts_of(read_labels(source, data), len(source.class_names))
