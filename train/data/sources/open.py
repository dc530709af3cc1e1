"""Opens the data set of a config."""

import functools
from collections.abc import Callable, Sequence

from train.config import ConfigError, DataConfig
from train.data.retry import read_again
from train.data.sources.arrays import open_digits, open_synthetic
from train.data.sources.base import Splits
from train.data.sources.csv_list import open_csv
from train.data.sources.folder import open_folder
from train.data.sources.npz import open_npz
from train.data.sources.tfds import open_tfds

_OPENERS: dict[str, Callable[..., Splits]] = {
    "csv": open_csv,
    "digits": open_digits,
    "folder": open_folder,
    "npz": open_npz,
    "synthetic": open_synthetic,
}


def open_splits(
    config: DataConfig, *, whole: bool = False, class_names: Sequence[str] | None = None
) -> Splits:
    """Opens the data set of a config.

    Args:
      whole, class_names: for folders of photos and CSV files; see `open_folder` and `open_csv`.

    Raises:
      ConfigError: the data set does not exist, is empty, or has the wrong format or layout.
      RunError: its storage is down.
    """
    if config.name in ("csv", "folder", "npz") and not config.dir:
        raise ConfigError(f"data.dir is not set: data.name {config.name!r} needs --data.dir PATH")
    where = f"data {config.name!r}" + (f" in {config.dir}" if config.dir else "")
    opened = functools.partial(_OPENERS.get(config.name, open_tfds), config)
    if config.name in ("csv", "folder"):
        opened = functools.partial(
            _OPENERS[config.name], config, whole=whole, class_names=class_names
        )
    try:
        splits, _ = read_again(opened, config.retries, where)
    except OSError as error:
        raise ConfigError(f"{where}: {error}") from None
    _check_not_empty(config, splits)
    if len(splits.train.class_names) < 2 and config.name != "synthetic":
        raise ConfigError(
            f"data {config.name!r}: has one class only, {splits.train.class_names[0]!r}. A network "
            "needs at least two classes: with one, every answer is right"
        )
    return splits


def _check_not_empty(config: DataConfig, splits: Splits) -> None:
    named = list(zip((config.train_split, config.eval_split), splits, strict=True))
    named += [(config.test_split, splits.test)] if splits.test is not None else []
    for split, source in named:
        if not len(source):
            total = len(splits.train) + len(splits.eval)
            held_out = config.name in ("csv", "digits", "folder")
            why = f" (data.eval_fraction {config.eval_fraction} of {total:,})" if held_out else ""
            raise ConfigError(f"data {config.name!r}: split {split!r} has no examples{why}")
