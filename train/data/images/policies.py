"""Policies of random operations: RandAugment, TrivialAugment, AutoAugment and AugMix.

Each function draws the operations of one image from a generator; `operations.apply` runs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.random import Generator
from PIL.Image import Resampling

from train.data.images.operations import GEOMETRIC, Mixture, Operation
from train.data.images.policy_tables import CIFAR10, IMAGENET, RAND_NAMES, RAND_WEIGHTS

if TYPE_CHECKING:
    from train.config.policy import RandAugment

Interpolation = Literal["bilinear", "bicubic", "random"]
Operations = tuple[Operation, ...]


def draw_policy(
    policy: str, rng: Generator, size: int, interpolation: Interpolation = "bilinear"
) -> Operations:
    """Draws the operations of a policy for one image.

    Args:
      policy: `augment.policy`.
      size: side of the image, in pixels.
      interpolation: filter of the geometric operations.

    Raises:
      ConfigError: there is no such policy.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> draw_policy("rand-m9-p1-n1-inc1", rng, 224)[0][:2]
      ('shear_y', 0.27)
    """
    from train.config.policy import parse_policy  # its package imports tyro

    parsed = parse_policy(policy)
    if isinstance(parsed, str):
        drawn = _NAMED[parsed](rng, size)
    else:
        drawn = rand_augment(parsed, rng, size)
    return with_filters(drawn, rng, interpolation) if interpolation != "bilinear" else drawn


def draw_filter(rng: Generator, interpolation: Interpolation) -> Resampling:
    """The filter of one operation; "random": bilinear or bicubic."""
    if interpolation == "random":
        return Resampling.BICUBIC if rng.random() < 0.5 else Resampling.BILINEAR
    return Resampling[interpolation.upper()]


def with_filters(
    operations: Operations, rng: Generator, interpolation: Interpolation
) -> Operations:
    """The operations with the filter of each geometric one."""

    def one(operation: Operation) -> Operation:
        if operation.name == "augmix":
            mixture = operation.value
            chains = tuple(with_filters(c, rng, interpolation) for c in mixture.chains)
            return operation._replace(value=mixture._replace(chains=chains))
        if operation.name not in GEOMETRIC:
            return operation
        return operation._replace(resample=draw_filter(rng, interpolation))

    return tuple(map(one, operations))


def _signed(rng: Generator, value: float) -> float:
    return value if rng.random() < 0.5 else -value


# --- RandAugment ---------------------------------------------------------------------------------


def rand_augment(policy: RandAugment, rng: Generator, size: int) -> Operations:
    """Draws RandAugment's operations (Cubuk 2019) as timm does.

    Of 15 operations, `count` are drawn, and each of them is applied with `probability`. With
    `weights`, no operation is drawn twice.

    Examples:
      >>> from train.config.policy import RandAugment
      >>> always = RandAugment(magnitude=9, count=3, probability=1.0)
      >>> len(rand_augment(always, np.random.default_rng(0), 224))
      3
    """
    if policy.weights:
        shares = RAND_WEIGHTS[policy.weights]
        chosen = rng.choice(len(RAND_NAMES), policy.count, replace=False, p=shares)
    else:
        chosen = rng.integers(len(RAND_NAMES), size=policy.count)
    drawn = []
    for name in (RAND_NAMES[i] for i in chosen):
        if rng.random() >= policy.probability:
            continue
        magnitude = float(policy.magnitude)
        if policy.std == math.inf:
            magnitude *= rng.random()
        elif policy.std > 0:
            magnitude = rng.normal(magnitude, policy.std)
        level = min(max(magnitude, 0.0), policy.largest) / 10
        drawn.append(Operation(name, rand_value(name, level, policy.increasing, rng, size)))
    return tuple(drawn)


def rand_value(name: str, level: float, increasing: bool, rng: Generator, size: int) -> float:
    """The value of one of RandAugment's operations.

    Args:
      level: magnitude / 10.
      increasing: whether the strength grows with the level (timm's `inc1`). Without it, as in the
        code of EfficientNet, factors go from 0.1 to 1.9, and `posterize` and `solarize` become
        weaker.
      size: side of the image, in pixels.

    Examples:
      >>> rand_value("solarize", 0.25, True, np.random.default_rng(0), 224)
      192
    """
    match name:
        case "shear_x" | "shear_y":
            return _signed(rng, 0.3 * level)
        case "translate_x" | "translate_y":
            return _signed(rng, 0.45 * level * size)
        case "rotate":
            return _signed(rng, 30 * level)
        case "brightness" | "contrast" | "saturation" | "sharpness":
            return max(0.1, 1 + _signed(rng, 0.9 * level)) if increasing else 0.1 + 1.8 * level
        case "posterize":
            return 4 - int(4 * level) if increasing else int(4 * level)
        case "solarize":
            threshold = min(256, int(256 * level))
            return 256 - threshold if increasing else threshold
        case "solarize_add":
            return min(128, int(110 * level))
    return 0.0  # autocontrast, equalize, invert


# --- TrivialAugment, AutoAugment -----------------------------------------------------------------

BINS = 31
"""Magnitudes of TrivialAugment."""


def ta_wide(rng: Generator, size: int) -> Operations:
    """Draws TrivialAugment's one operation and its magnitude (Müller 2021, arXiv:2103.10158).

    The operation is one of 14 of the wide space, and the magnitude one of 31; both are uniform.
    Values are those of torchvision's `TrivialAugmentWide`.

    Examples:
      >>> [operation] = ta_wide(np.random.default_rng(0), 224)
      >>> operation.name in WIDE
      True
    """
    name = WIDE[rng.integers(len(WIDE))]
    level = rng.integers(BINS) / (BINS - 1)
    return (Operation(name, _value(name, level, _WIDE_RANGES, rng)),)


WIDE = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness"),
    *("saturation", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
"""The operations of TrivialAugment's wide space."""


class _Ranges(NamedTuple):
    """The largest values of operations, as torchvision's two policies define them."""

    shear: float
    translate: float
    """In pixels."""
    rotate: float
    """In degrees."""
    enhance: float
    """Of brightness, contrast, saturation and sharpness: 1 plus or minus this."""
    posterize: float
    """Bits that are removed."""


_WIDE_RANGES = _Ranges(shear=0.99, translate=32, rotate=135, enhance=0.99, posterize=6)


def _auto_ranges(size: int) -> _Ranges:
    return _Ranges(shear=0.3, translate=150 / 331 * size, rotate=30, enhance=0.9, posterize=4)


def _value(name: str, level: float, ranges: _Ranges, rng: Generator) -> float:
    """The value of an operation at a level in 0..1, with a random sign where it has one."""
    match name:
        case "shear_x" | "shear_y":
            return _signed(rng, ranges.shear * level)
        case "translate_x" | "translate_y":
            return _signed(rng, int(ranges.translate * level))
        case "rotate":
            return _signed(rng, ranges.rotate * level)
        case "brightness" | "contrast" | "saturation" | "sharpness":
            return 1 + _signed(rng, ranges.enhance * level)
        case "posterize":
            return 8 - round(ranges.posterize * level)
        case "solarize":
            return 255 * (1 - level)
    return 0.0  # identity, autocontrast, equalize, invert


def autoaugment(
    table: tuple[tuple[tuple[str, float, int], ...], ...], rng: Generator, size: int
) -> Operations:
    """Draws one pair of operations from a table of AutoAugment (Cubuk 2019, arXiv:1805.09501).

    Each operation of the pair is applied with its probability. Values are those of torchvision's
    `AutoAugment`.

    Args:
      table: pairs of (operation, probability, magnitude from 0 to 9); see `policy_tables`.

    Examples:
      >>> table = ((("invert", 1.0, 0), ("posterize", 1.0, 9)),)
      >>> [operation[:2] for operation in autoaugment(table, np.random.default_rng(0), 32)]
      [('invert', 0.0), ('posterize', 4)]
    """
    pair = table[rng.integers(len(table))]
    ranges = _auto_ranges(size)
    return tuple(
        Operation(name, _value(name, magnitude / 9, ranges, rng))
        for name, probability, magnitude in pair
        if rng.random() < probability
    )


# --- AugMix --------------------------------------------------------------------------------------

MIXED = (
    *("autocontrast", "equalize", "posterize", "rotate", "solarize", "shear_x", "shear_y"),
    *("translate_x", "translate_y"),
)
"""The operations of AugMix: without those of the corruptions that the paper tests on."""
SEVERITY, WIDTH, DEPTH = 3, 3, 3


def augmix(rng: Generator, size: int) -> Operations:
    """Draws AugMix (Hendrycks 2020, arXiv:1912.02781, algorithm 1) as the paper's code does.

    Three chains of one to three operations are mixed with weights from Dirichlet(1, 1, 1), and the
    result is mixed with the image with a share from Beta(1, 1). Each operation draws its own
    magnitude, uniform between 0.1 and 3 of 10. (torchvision's form adds four operations on colours,
    and draws one of the three magnitudes 0, 10/9 and 20/9.)

    Examples:
      >>> [operation] = augmix(np.random.default_rng(0), 224)
      >>> operation.name, len(operation.value.chains)
      ('augmix', 3)
    """
    weights = rng.dirichlet(np.ones(WIDTH)).tolist()
    share = float(rng.beta(1, 1))
    chains = []
    for _ in range(WIDTH):
        names = [MIXED[i] for i in rng.integers(len(MIXED), size=rng.integers(1, DEPTH + 1))]
        chains.append(tuple(Operation(name, _mixed_value(name, rng, size)) for name in names))
    return (Operation("augmix", Mixture(share, tuple(weights), tuple(chains))),)


def _mixed_value(name: str, rng: Generator, size: int) -> float:
    level = rng.uniform(0.1, SEVERITY) / 10
    match name:
        case "shear_x" | "shear_y":
            return _signed(rng, 0.3 * level)
        case "translate_x" | "translate_y":
            return _signed(rng, int(size / 3 * level))
        case "rotate":
            return _signed(rng, int(30 * level))
        case "posterize":
            return 4 - int(4 * level)
        case "solarize":
            return 256 - int(256 * level)
    return 0.0  # autocontrast, equalize


_NAMED: dict[str, Callable[[Generator, int], Operations]] = {
    "": lambda rng, size: (),
    "ta_wide": ta_wide,
    "autoaugment": lambda rng, size: autoaugment(IMAGENET, rng, size),
    "autoaugment-cifar10": lambda rng, size: autoaugment(CIFAR10, rng, size),
    "augmix": augmix,
}
