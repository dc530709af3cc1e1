"""What is measured on the training images before the first step: `data.mean`, `data.whiten`.

Mean and standard deviation are numbers, which replace "measure" in the run's config.json. A mean
image and a whitening matrix are in the file `preprocessing.npz` beside it. A resume, `eval`,
`predict` and `convert` use these, and measure nothing.
"""

import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from train.config import ConfigError, DataConfig, RunConfig, RunError
from train.console import warn
from train.data.prefetch import Stopped
from train.data.statistics import Subset, mean_and_std, sample, sum_images
from train.distributed.processes import Processes
from train.distributed.signals import StopSignal
from train.learn.prepare import Normalisation
from train.learn.whiten import whitening_matrix
from train.run.directory import resumes
from train.run.parts import Run

FILE = "preprocessing.npz"
"""The mean image and the whitening matrix of a run: arrays `mean` [H, W, C] and `matrix` [D, D]."""

MOST_VALUES = 4096
"""Largest H * W * C for whitening. The matrix has its square: here 64 MiB, and its eigenvectors
take half a minute. Per image, whitening then takes 17 million multiply-adds."""


_ALONE = Processes()


def measure_pixels(
    run: Run, workdir: Path, processes: Processes, stop: StopSignal, say: Callable[[str], None]
) -> None:
    """Gives `run` what its config asks to measure; from the file in `workdir`, if it resumes.

    Processes share the reading for numbers, which are exact sums. Process 0 alone measures a mean
    image and whitening, and writes the file, which all of them then read.

    Raises:
      ConfigError: an unreadable image; images too large to whiten; a resume, and the file is gone.
      RunError: a signal.
    """
    data = run.config.data
    if not data.measures:
        return
    if data.mean == "measure" and data.whiten == "none":
        run.use(*_measured(run, processes, stop, say))
        return
    check_size(data, run.splits.train.channels)
    if processes.is_writer and not resumes(workdir):
        _, found = _measured(run, _ALONE, stop, say)
        save(found, workdir / FILE)
    processes.barrier()
    run.use(run.config, load(workdir / FILE, data))


def _measured(
    run: Run, processes: Processes, stop: StopSignal, say: Callable[[str], None]
) -> tuple[RunConfig, Normalisation]:
    count = len(run.splits.train)
    used = len(sample(count, run.config.data.image_size))
    some = f"{used:,} of {count:,}" if used < count else f"{count:,}"
    say(f"measuring {run.config.data.measured_name} on {some} training images")
    try:
        return measured(run, processes=processes, stopped=lambda _: stop.signal is not None)
    except Stopped:
        raise RunError(f"stopped by {stop.signal} before the first step") from None


def measured(
    run: Run,
    *,
    processes: Processes = _ALONE,
    stopped: Callable[[float], bool] = lambda _: False,
) -> tuple[RunConfig, Normalisation]:
    """The run's config, with numbers in place of "measure", and the normalisation of its images.

    Raises:
      ConfigError: an unreadable image; images of a single value; images too large to whiten.
      Stopped: `stopped` returned True.
    """
    config, source, data = run.config, run.splits.train, run.config.data
    indices = sample(len(source), data.image_size)[processes.index :: processes.count]
    add: Any = partial(sum_images, report=warn, stopped=stopped)
    part = Subset(source, indices)
    if data.whiten != "none":
        check_size(data, source.channels)
        sums = add(part, data, config.eval, products=True)
        if sums.count < 2:
            raise ConfigError(f"data.whiten {data.whiten}: needs at least 2 training images")
        matrix = whitening_matrix(sums.covariance(), data.whiten_epsilon, data.whiten)
        mean = sums.mean_image().astype(np.float32)
        return config, Normalisation(mean, (1.0,), matrix.astype(np.float32))
    if data.mean == "image":
        mean = add(part, data, config.eval).mean_image().astype(np.float32)
        return config, Normalisation(mean, data.std)
    shares = processes.gather(add(part, data, config.eval).channel_sums())
    means, stds = zip(*(mean_and_std(x) for x in np.sum(shares, 0, dtype=object)), strict=True)
    if data.centres_only:
        stds = data.std
    if min(stds) <= 0:
        raise ConfigError(
            "data.mean measure: all pixels of a channel have the same value, so its standard "
            "deviation is 0; give data.mean and data.std"
        )
    data = replace(data, mean=means, std=stds)
    return replace(config, data=data), Normalisation(means, stds)


def check_size(data: DataConfig, channels: int) -> None:
    """Raises `ConfigError` if images are too large for `data.whiten`."""
    size = data.image_size
    values = size**2 * channels
    if data.whiten != "none" and values > MOST_VALUES:
        memory = 8 * values**2 / 2**30
        raise ConfigError(
            f"data.whiten {data.whiten}: images of {size}x{size}x{channels} have {values:,} "
            f"values, and their covariance matrix would take {memory:,.1f} GiB; at most "
            f"{MOST_VALUES:,} values are possible, such as 64x64 grey or 36x36 RGB pixels"
        )


def use_stand_in(run: Run) -> None:
    """Gives `run` arrays of the right shapes, to compile its step without reading images."""
    data, channels = run.config.data, run.splits.train.channels
    if data.measures:
        check_size(data, channels)
        shape = (data.image_size, data.image_size, channels)
        white = data.whiten != "none"
        mean = np.zeros(shape if white or data.mean == "image" else 1, np.float32)
        matrix = np.eye(math.prod(shape), dtype=np.float32) if white else None
        run.use(run.config, Normalisation(mean, data.std, matrix))


def save(found: Normalisation, file: Path) -> None:
    """Writes a mean image and a whitening matrix. A reader sees a whole file or none."""
    arrays: Any = {"mean": found.mean}
    if found.matrix is not None:
        arrays["matrix"] = found.matrix
    temporary = file.with_suffix(".tmp")
    try:
        with temporary.open("wb") as opened:
            np.savez(opened, **arrays)
        os.replace(temporary, file)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None


def load(file: Path, data: DataConfig) -> Normalisation:
    """The normalisation of `data`, with the arrays in `file` if it needs them.

    Raises:
      ConfigError: the file is missing, damaged, or of images of another size; or `data.mean` is
        "measure", which only training does.
    """
    if not data.measures:
        assert not isinstance(data.mean, str)
        return Normalisation(data.mean, data.std)
    if data.mean == "measure" and data.whiten == "none":
        raise ConfigError("data.mean measure: only training measures it; give numbers")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            mean = arrays["mean"]
            matrix = arrays["matrix"] if data.whiten != "none" else None
    except FileNotFoundError:
        raise ConfigError(f"{file}: is missing; it has the {data.measured_name}") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from None
    if len(mean) != data.image_size:
        raise ConfigError(
            f"data.image_size {data.image_size}: the {data.measured_name} in {file} belongs to "
            f"images of {len(mean)}x{len(mean)} pixels"
        )
    return Normalisation(mean, (1.0,) if matrix is not None else data.std, matrix)
