"""What is drawn for a training view from its generator: crop, flips and operations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator

from train.data.images.jpeg import Box
from train.data.images.operations import Affine, Operation
from train.data.images.policies import Operations, draw_policy, with_filters

if TYPE_CHECKING:
    from train.config import AugmentConfig


def sample_box(height: int, width: int, size: int, augment: AugmentConfig, rng: Generator) -> Box:
    """Samples (top, left, height, width) of the crop that is resized to `size` x `size` pixels."""
    if any(augment.scale):
        return sample_scaled_crop(height, width, size, augment.scale, rng)
    return sample_crop(height, width, augment, rng)


def sample_scaled_crop(
    height: int, width: int, size: int, scale: tuple[int, int], rng: Generator
) -> Box:
    """Samples the crop of scale jitter, in pixels of the image that is not resized.

    The short side becomes a random length in `scale`, ends included, and `size` x `size` pixels of
    that are cropped (fb.resnet.torch, transforms.lua: RandomScale, RandomCrop). Here the same part
    is cropped first and then resized, which needs to decode and resize less; its edges are rounded
    to whole pixels of the image.

    Examples:
      >>> sample_scaled_crop(512, 600, 224, (256, 256), np.random.default_rng(0))[2:]
      (448, 448)
    """
    short = int(rng.integers(scale[0], scale[1] + 1))
    side = min(max(1, round(size * min(height, width) / short)), height, width)
    top, left = (rng.random(2) * (height - side + 1, width - side + 1)).astype(int).tolist()
    return top, left, side, side


def sample_crop(height: int, width: int, augment: AugmentConfig, rng: Generator) -> Box:
    """Samples (top, left, height, width) as torchvision's RandomResizedCrop.get_params does.

    Of ten random candidates the first that fits is used; if none fits, the largest central crop of
    an allowed aspect ratio. All numbers are drawn at once, so that their count is always the same.
    """
    drawn = rng.random(22).tolist()
    (small, large), (low, high) = augment.area, map(math.log, augment.aspect)
    for share, shape in zip(drawn[:10], drawn[10:20], strict=True):
        area = height * width * (small + (large - small) * share)
        aspect = math.exp(low + (high - low) * shape)
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(drawn[20] * (height - h + 1)), int(drawn[21] * (width - w + 1)), h, w
    h = min(height, max(1, round(width / augment.aspect[0])))
    w = min(width, max(1, round(height * augment.aspect[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def pad_offsets(words: np.ndarray, pad: int) -> np.ndarray:
    """Offsets of a crop in an image padded by `pad`: uniform in 0..2 pad, from random words.

    The lower and the upper half of a word are scaled to the top and the left offset (Lemire 2019,
    arXiv:1805.10941). His rejection step is skipped: it concerns one draw in 10^8, and the bias is
    far too small to matter.

    Args:
      words: random uint64 [...], one for each image.

    Returns:
      int64 [..., 2]: top and left.
    """
    halves = np.stack([words & 0xFFFFFFFF, words >> 32], axis=-1)
    return (halves * (2 * pad + 1) >> 32).astype(np.int64)


def draw_flips(augment: AugmentConfig, rng: Generator) -> tuple[bool, bool]:
    """Whether a view is flipped left-right and top-bottom."""
    mirrored = augment.flip and rng.random() < 0.5
    return mirrored, augment.vertical_flip and rng.random() < 0.5


def draw_operations(augment: AugmentConfig, size: int, rng: Generator) -> Operations:
    """Draws the operations of one image: affine map, policy, colour jitter, grey, blur, lighting.

    Options that are off draw nothing.

    Args:
      size: side of the image, in pixels.

    Examples:
      >>> from train.config import AugmentConfig
      >>> rng = np.random.default_rng(0)
      >>> augment = AugmentConfig(jitter=(0.4, 0, 0, 0), grey=1.0)
      >>> [operation.name for operation in draw_operations(augment, 224, rng)]
      ['brightness', 'grey']
    """
    drawn: list[Operation] = []
    if augment.moves:
        drawn += with_filters(affine_map(augment, size, rng), rng, augment.interpolation)
    if augment.policy:
        drawn += draw_policy(augment.policy, rng, size, augment.interpolation)
    if any(augment.jitter):
        drawn += colour_jitter(augment.jitter, rng)
    if augment.grey and rng.random() < augment.grey:
        drawn.append(Operation("grey"))
    if augment.blur and rng.random() < augment.blur:
        drawn.append(Operation("blur", rng.uniform(*augment.blur_sigma)))
    if augment.lighting:
        drawn += lighting(augment.lighting, rng)
    return tuple(drawn)


def colour_jitter(jitter: tuple[float, float, float, float], rng: Generator) -> Operations:
    """Draws the factors of brightness, contrast, saturation and hue, and their order.

    As torchvision's `ColorJitter`: factors are uniform in [max(0, 1 - a), 1 + a], the hue is
    shifted by U(-a, a) of a turn, and every order has the same probability. fb.resnet.torch
    (transforms.lua) does the same without the hue.

    Args:
      jitter: a of brightness, contrast, saturation and hue.

    Examples:
      >>> drawn = colour_jitter((0.4, 0.4, 0.4, 0.1), np.random.default_rng(0))
      >>> sorted(operation.name for operation in drawn)
      ['brightness', 'contrast', 'hue', 'saturation']
    """
    brightness, contrast, saturation, hue = jitter
    drawn = [
        Operation(name, rng.uniform(max(0.0, 1 - a), 1 + a))
        for name, a in (
            ("brightness", brightness),
            ("contrast", contrast),
            ("saturation", saturation),
        )
        if a
    ]
    if hue:
        drawn.append(Operation("hue", rng.uniform(-hue, hue)))
    return tuple(drawn[i] for i in rng.permutation(len(drawn)))


def lighting(std: float, rng: Generator) -> Operations:
    """Draws the weights of the principal colours, from N(0, std) (Krizhevsky 2012, section 4.1).

    Examples:
      >>> [operation] = lighting(0.1, np.random.default_rng(0))
      >>> operation.name, len(operation.value)
      ('lighting', 3)
    """
    return (Operation("lighting", tuple(rng.normal(0, std, 3).tolist())),)


def affine_map(augment: AugmentConfig, size: int, rng: Generator) -> Operations:
    """Draws angle, shift, zoom and shear as torchvision's `RandomAffine`; shifts are whole pixels.

    Args:
      size: side of the image, in pixels.

    Examples:
      >>> from train.config import AugmentConfig
      >>> [operation] = affine_map(AugmentConfig(rotate=30), 224, np.random.default_rng(0))
      >>> operation.value.zoom, abs(operation.value.angle) < 30
      (1.0, True)
    """
    angle, x, y, shear = (2 * rng.random(4) - 1).tolist()
    shift = tuple(round(signed * augment.translate * size) for signed in (x, y))
    zoom = rng.uniform(*augment.zoom)
    value = Affine(angle * augment.rotate, shift, zoom, shear * augment.shear)
    return (Operation("affine", value),)
