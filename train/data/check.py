"""Check of the evaluation images before training, so that a bad one does not stop a run later.

It takes as long as reading the images of one evaluation, but at most `CHECK_SECONDS`.
"""

import contextlib
import time
from collections.abc import Callable

import numpy as np

from train.config import ConfigError, DataConfig
from train.data.images.crops import limits
from train.data.images.decode import BadImage, decode
from train.data.retry import read_again
from train.data.sources import ArraySource, Source, SyntheticSource
from train.data.sources.base import is_label
from train.data.thread_pool import in_threads

CHECK_SECONDS = 10.0
_SHOWN = 5  # number of bad images in the message


def check_images(
    source: Source,
    data: DataConfig,
    *,
    shard: tuple[int, int] = (0, 1),
    stopped: Callable[[], bool] = lambda: False,
    seconds: float = CHECK_SECONDS,
) -> str:
    """Reads and decodes the images of a split, in random order, and checks their labels.

    Args:
      source: a split; images that are arrays are not checked.
      data: with `on_bad_image` "skip" nothing is checked; the evaluation counts bad images.
      shard: (process, processes); each process checks its share.
      stopped: called after each image; True ends the check.
      seconds: the time limit.

    Returns:
      A note if the time limit was reached before all images were checked, else "".

    Raises:
      ConfigError: images that cannot be read, or labels out of range.
      RunError: the storage is down.
    """
    process, processes = shard
    order = np.random.default_rng(0).permutation(len(source))[process::processes].tolist()
    in_memory = isinstance(source, ArraySource | SyntheticSource)
    if data.on_bad_image == "skip" or in_memory or not order:
        return ""
    end = time.monotonic() + seconds
    checked, problems = 0, []
    threads = max(data.threads, 1)
    found = in_threads(lambda i: _problem(source, data, i), order, threads, 2 * threads)
    with contextlib.closing(found):
        for problem in found:
            checked += 1
            if problem:
                problems.append(problem)
            if stopped() or time.monotonic() > end:
                break
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ConfigError(
            f"evaluation images that cannot be used: {len(problems)}: "
            f"{'; '.join(problems[:_SHOWN])}{more}. `--data.on_bad_image skip` skips and counts "
            "unreadable files"
        )
    if checked == len(order) or stopped():
        return ""
    return (
        f"checked {checked:,} of {len(order):,} evaluation images in {seconds:g} s; the first "
        "evaluation reads the others"
    )


def _problem(source: Source, data: DataConfig, index: int) -> str:
    name = source.name(index)
    try:
        (image, label), _ = read_again(lambda: source[index], data.retries, name)
        if isinstance(image, bytes):
            decode(image, **limits(data))
    except (BadImage, OSError) as error:
        return f"{name}: {error}"
    classes = len(source.class_names)
    return "" if is_label(label, classes) else f"{name}: label {label} is not in 0..{classes - 1}"
