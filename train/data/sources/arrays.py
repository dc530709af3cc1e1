"""Data sets of arrays: scikit-learn's digits, and synthetic images. (For files see `npz.py`.)"""

import importlib.util
from pathlib import Path

import numpy as np

from train.config import ConfigError, DataConfig
from train.data.sources.base import ArraySource, Splits, SyntheticSource
from train.data.sources.held_out import held_out_by_class, held_out_by_place


def open_digits(config: DataConfig) -> Splits:
    """scikit-learn's bundled 1,797 handwritten digits, 8x8 (UCI, Alpaydin & Kaynak 1998).

    The exact share `data.eval_fraction` of each class is held out; with `data.held_out` "by_place",
    of the whole set.
    """
    # load_digits() reads the same file, but its import takes a third of the time of a warm start.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ConfigError("data.name 'digits': comes with scikit-learn, which is not installed")
    table = np.loadtxt(Path(spec.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, -1].astype(np.int64)
    names = [str(digit) for digit in range(10)]
    if config.held_out == "by_place":
        test = held_out_by_place(len(labels), config.eval_fraction, config.split_seed)
    else:
        test = held_out_by_class(labels, config.eval_fraction, config.split_seed)
    return Splits(
        ArraySource(images[~test], labels[~test], names, "train"),
        ArraySource(images[test], labels[test], names, "test"),
    )


def open_synthetic(config: DataConfig) -> Splits:
    """Random images of `data.classes` classes."""
    names = [str(i) for i in range(config.classes)]
    return Splits(
        SyntheticSource(config.examples, config.image_size, names, "train"),
        SyntheticSource(config.examples, config.image_size, names, "test"),
    )
