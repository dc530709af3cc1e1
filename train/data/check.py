"""Evaluation images are read once before training: a bad one must not show after hours of it.

The cost is at most that of one evaluation's reading, and at most `CHECK_SECONDS`.
"""

import contextlib
import time
from collections.abc import Callable

import numpy as np

from train.config import ConfigError, DataConfig
from train.data.images.crops import BadImage, decode, limits
from train.data.retry import read_again
from train.data.sources import ArraySource, Source, SyntheticSource
from train.data.thread_pool import in_threads

CHECK_SECONDS = 10.0
_SHOWN = 5  # bad images in the message


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
      source: a split; one whose images are arrays has nothing to check.
      data: `on_bad_image` "skip" leaves bad images to the evaluation, which counts them.
      shard: (process, processes); each process checks its share.
      stopped: asked after each image; True ends the check.
      seconds: the longest that it may take.

    Returns:
      A note if there was no time for all images, else "".

    Raises:
      ConfigError: images that cannot be read, or a label that is no class.
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
        f"checked {checked:,} of {len(order):,} evaluation images in {seconds:g} s; the others are "
        "first read by the first evaluation"
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
    return "" if 0 <= label < classes else f"{name}: label {label} is not in 0..{classes - 1}"
