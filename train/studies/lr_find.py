"""Learning-rate range test (Smith 2017, arXiv:1506.01186, section 3.3).

A short training in which the rate grows exponentially from step to step. The loss falls while the
rate is useful, and rises when it is too large.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optax

from train.config import ConfigError, RunConfig
from train.console import warn
from train.data.prefetch import never
from train.learn.model import check_batches
from train.learn.optim import peak_rate
from train.report.curves import LINES, STYLE
from train.run import out_of_memory
from train.run.checks import check_lengths, check_parts
from train.run.dispatch import dispatches
from train.run.parts import Run
from train.run.pixels import measured

SMOOTHING = 0.9
"""Share of the smoothed loss that a step keeps."""
DIVERGED = 4.0
"""The test ends where the smoothed loss is this many times its lowest value."""
_MOST = 10  # steps of a dispatch


@dataclass(frozen=True)
class Curve:
    """Values of `optim.lr`, and the training loss at each of them, float64 [N]."""

    rates: np.ndarray
    losses: np.ndarray
    diverged: bool
    """Whether the test ended because the loss was too high."""

    @property
    def smoothed(self) -> np.ndarray:
        return smooth(self.losses)


class Suggestion(NamedTuple):
    """Values of `optim.lr`."""

    lowest_loss: float
    """Where the smoothed loss is lowest: about the largest rate that can be used."""
    steepest: float
    """Where the smoothed loss falls fastest."""
    suggested: float
    """A tenth of `lowest_loss`, in two digits."""


def find(config: RunConfig, *, steps: int, lowest: float, highest: float) -> Curve:
    """Trains for up to `steps` steps, in which `optim.lr` grows from `lowest` to `highest`.

    The rate of a step is scaled by the batch size, as in a run. There is no warmup, schedule or
    average of weights, mixing is never off, and images do not grow. Nothing is saved.

    Raises:
      ConfigError: as in a run; or the loss is not finite in the first steps.
    """
    optim = replace(config.optim, schedule="constant", warmup="0st", floor=0.0, hold="")
    plain = replace(config, duration=f"{steps}st", optim=optim, ema_decay=0.0, swa_start="")
    full = replace(config.augment, size_start=0)  # images that grow: at their last size
    run = Run(replace(plain, augment=full, mix=replace(config.mix, off="")))
    check_batches(run.config, run.mesh)
    warn(*check_lengths(run, resumed=False))
    check_parts(run)
    if run.config.data.measures:
        run.use(*measured(run))
    factor = peak_rate(plain) / optim.lr
    run.schedule = optax.exponential_decay(lowest * factor, max(steps - 1, 1), highest / lowest)
    with out_of_memory.explained(out_of_memory.for_training(run)):
        losses = _train(run)
    ended = has_diverged(losses)
    losses = [x for x in losses if math.isfinite(x)]
    if len(losses) < 2:
        raise ConfigError(f"the loss is not finite at optim.lr {lowest:g}: choose a lower --lowest")
    rates = np.geomspace(lowest, highest, steps)[: len(losses)]
    return Curve(rates, np.asarray(losses), ended)


def _train(run: Run) -> list[float]:
    """The mean training loss of each step, to the end of the run or of the test."""
    losses: list[float] = []
    state = run.new_state()
    with dispatches(run, 0, report=warn, stopped=never, say=print) as stream:
        while len(losses) < run.total_steps and not has_diverged(losses):
            work = stream.next(min(_MOST, run.total_steps - len(losses)))
            state, sums = stream.run(state, work)
            found = np.ravel(sums["loss"]) / np.ravel(sums["count"])
            losses += found[: work.steps].tolist()
    return losses


def smooth(losses: Sequence[float] | np.ndarray, keep: float = SMOOTHING) -> np.ndarray:
    """The exponential moving average of each loss and those before it, corrected for its start.

    >>> smooth([1.0, 1.0, 4.0], keep=0.5).round(3).tolist()
    [1.0, 1.0, 2.714]
    """
    average, found = 0.0, []
    for i, loss in enumerate(losses):
        average = keep * average + (1 - keep) * loss
        found.append(average / (1 - keep ** (i + 1)))
    return np.asarray(found)


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the smoothed loss is not finite, or `DIVERGED` times its lowest value.

    >>> has_diverged([2.0, 1.0]), has_diverged([1.0, 99.0]), has_diverged([1.0, math.nan])
    (False, True, True)
    """
    if not losses:
        return False
    found = smooth(losses)
    return not found[-1] <= DIVERGED * np.nanmin(found)


def suggest(curve: Curve) -> Suggestion:
    """Two readings of the curve, and the rate that is suggested.

    The slope is that of the smoothed loss over the logarithm of the rate, up to the lowest loss.
    """
    smoothed = curve.smoothed
    at = int(smoothed.argmin())
    slopes = np.gradient(smoothed, np.log(curve.rates))[: at + 1]
    lowest = float(curve.rates[at])
    return Suggestion(lowest, float(curve.rates[slopes.argmin()]), float(f"{lowest / 10:.2g}"))


def describe(curve: Curve, steps: int) -> list[str]:
    """The result in lines; `steps` were asked for."""
    found, count = suggest(curve), len(curve.rates)
    end = f"all {steps:,} steps, up to optim.lr {curve.rates[-1]:.3g}"
    if curve.diverged:
        end = f"step {count:,} of {steps:,}: the loss diverged at optim.lr {curve.rates[-1]:.3g}"
    lines = [
        f"the test ended after {end}",
        f"lowest loss at optim.lr {found.lowest_loss:.3g}, steepest descent at "
        f"{found.steepest:.3g}; suggested: a tenth of the rate with the lowest loss",
    ]
    if not curve.diverged and curve.smoothed.argmin() == count - 1:
        lines.append("the loss was still falling at the end: try a higher --highest")
    return lines


def write(curve: Curve, folder: Path, title: str) -> list[Path]:
    """Writes lr-find.csv and the plot lr-find.svg; returns their paths.

    Raises:
      ConfigError: they cannot be written.
    """
    table, plot = folder / "lr-find.csv", folder / "lr-find.svg"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with table.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["lr", "loss", "smoothed"])
            rows.writerows(zip(curve.rates, curve.losses, curve.smoothed, strict=True))
        draw(curve, plot, title)
    except OSError as error:
        raise ConfigError(f"--folder {str(folder)!r}: {error.strerror}") from None
    return [table, plot]


def draw(curve: Curve, path: Path, title: str) -> None:
    """The plot, in the format of the path's suffix."""
    import matplotlib.style  # here, so that importing this module stays cheap
    from matplotlib.figure import Figure

    found, smoothed = suggest(curve), curve.smoothed
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(curve.rates, curve.losses, label="loss", alpha=0.5, **LINES["train"])
        axes.plot(curve.rates, smoothed, label="smoothed", **LINES["eval"])
        axes.axvline(found.suggested, label=f"suggested: {found.suggested:g}", **LINES["EMA"])
        at = smoothed.argmin()
        axes.plot(found.lowest_loss, smoothed[at], "o", color="black", label="lowest loss")
        steepest = np.interp(found.steepest, curve.rates, smoothed)
        axes.plot(found.steepest, steepest, "v", color="black", label="steepest descent")
        axes.set(xlabel="optim.lr", ylabel="Training loss", xscale="log", title=title)
        fall = max(smoothed[0] - smoothed[at], 0.1)
        axes.set_ylim(smoothed[at] - fall, smoothed[0] + fall)  # without the divergence
        axes.legend()
        figure.savefig(path)
