"""The training and evaluation views of an image: decoded, cropped, resized, flipped, augmented.

Views are uint8. The device normalises, mixes and erases them (`train/learn/prepare.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image

from train.data.images import jpeg
from train.data.images.decode import (
    MAX_BYTES,
    Jpeg,
    decode,
    decode_with_pillow,
    read_jpeg_header,
)
from train.data.images.draws import draw_flips, draw_operations, pad_offsets, sample_box
from train.data.images.jpeg import Box
from train.data.images.operations import apply
from train.data.images.policies import Operations, draw_filter
from train.data.images.resize import resize_crop, resized_centre

if TYPE_CHECKING:
    from train.config import AugmentConfig, DataConfig


class Limits(TypedDict):
    """Limits on an image that is decoded; see `decode`."""

    max_pixels: int
    max_bytes: int


def limits(data: DataConfig) -> Limits:
    """The limits of a config: `data.max_pixels` and `data.max_image_bytes`."""
    return {"max_pixels": data.max_pixels, "max_bytes": data.max_image_bytes}


def train_image(
    image: bytes | np.ndarray,
    size: int,
    augment: AugmentConfig,
    rng: Generator,
    *,
    max_pixels: int,
    max_bytes: int = MAX_BYTES,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """A random training view of an image: crop, resize, flips, and the operations of `augment`.

    With `augment.scale`, the crop is that of `sample_scaled_crop`. Else `augment.crop` is one of

    - "random_resized": a random part of the image, by area and aspect ratio (Szegedy et al. 2015,
      "Going deeper with convolutions", section 6);
    - "pad": zeros, or the mirrored image, added on each side, then a random crop (He et al. 2015,
      "Deep residual learning", section 4.2);
    - "none": the short side is resized to `size`, and the centre is cropped.

    The view is a function of the image, the arguments and `rng`.

    Args:
      image: an encoded file (C = 3), or uint8 [H, W, C] with C = 1 or 3, which is not modified.
      size: height and width of the view.
      max_pixels, max_bytes: see `decode`.
      out: contiguous uint8 [size, size, C] for the view; None: a new array.

    Returns:
      uint8 [size, size, C].

    Raises:
      BadImage: see `decode`. Of a JPEG, the rows below the crop are not checked.
    """
    if augment.crop == "random_resized" or any(augment.scale):
        crop = random_crop(image, size, augment, rng, max_pixels=max_pixels, max_bytes=max_bytes)
        view = resize_crop(crop, size, out, draw_filter(rng, augment.interpolation))
    else:
        method = draw_filter(rng, augment.interpolation)
        pixels = _as_pixels(image, max_pixels, max_bytes)
        view = resized_centre(pixels, size, size, method)
        if augment.crop == "pad":
            top, left = pad_offsets(rng.bit_generator.random_raw(1), augment.pad)[0]
            view = padded(view, augment)[top : top + size, left : left + size]
        out = np.empty(view.shape, np.uint8) if out is None else out
        out[...] = view
        view = out
    mirrored, upside_down = draw_flips(augment, rng)
    if mirrored or upside_down:
        # In place; NumPy takes 40 times as long. 1: left-right, 0: top-bottom, -1: both.
        cv2.flip(view, -1 if mirrored and upside_down else int(mirrored), dst=view)
    if operations := draw_operations(augment, size, rng):
        view[...] = apply(view, operations, augment.fill)
    return view


def padded(views: np.ndarray, augment: AugmentConfig) -> np.ndarray:
    """Adds `augment.pad` pixels on each side of uint8 [..., H, W, C]."""
    pad = augment.pad
    height, width, channels = views.shape[-3:]
    shape = (*views.shape[:-3], height + 2 * pad, width + 2 * pad, channels)
    if augment.pad_mode == "zeros":
        found = np.zeros(shape, np.uint8)
        found[..., pad : pad + height, pad : pad + width, :] = views
        return found
    rows, columns = (np.pad(np.arange(n), pad, mode="reflect") for n in (height, width))
    return views[..., rows[:, None], columns, :]


class SampledView(NamedTuple):
    """What `train_image` draws for a view that is resized from a crop."""

    box: Box
    mirrored: bool
    upside_down: bool
    operations: Operations


def sample_view(
    image: bytes | np.ndarray,
    size: int,
    augment: AugmentConfig,
    rng: Generator,
    *,
    max_pixels: int,
    max_bytes: int = MAX_BYTES,
) -> SampledView | None:
    """Samples a view that is resized from a crop, for another decoder (DALI).

    Returns:
      The same as `train_image` draws; None, with nothing drawn from `rng`, if the image is not an
      upright, sequential, complete JPEG: use `train_image` then.

    Raises:
      BadImage: see `decode`.
    """
    header = _jpeg_header(image, max_pixels, max_bytes)
    if header is None or header.orientation != 1 or header.header.height_at is None:
        return None
    box = sample_box(*header.size(1), size, augment, rng)
    return SampledView(box, *draw_flips(augment, rng), draw_operations(augment, size, rng))


def eval_image(
    image: bytes | np.ndarray,
    size: int,
    crop_fraction: float,
    *,
    max_pixels: int,
    max_bytes: int = MAX_BYTES,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> np.ndarray:
    """The evaluation view of an image: the short side is resized, then the centre is cropped.

    The short side becomes floor(size / crop_fraction). `crop_fraction`, in (0, 1], is timm's
    `crop_pct`: 224 / 0.875 is the usual 256. Filters and rounding are those of torchvision's Resize
    and CenterCrop on PIL images, so that published accuracies can be reproduced. The pixels are
    exactly equal, except for images longer than 256:1. For the same reason, JPEGs are decoded at
    full size.

    Args:
      image: an encoded file (C = 3), or uint8 [H, W, C] with C = 1 or 3.
      size: height and width of the view.
      max_pixels, max_bytes: see `decode`.

    Returns:
      uint8 [size, size, C]; an array that already has this size is returned without a copy.

    Raises:
      BadImage: see `decode`.
    """
    pixels = _as_pixels(image, max_pixels, max_bytes)
    short = math.floor(size / crop_fraction)
    method = Image.Resampling[interpolation.upper()]
    return np.ascontiguousarray(resized_centre(pixels, short, size, method))


def _as_pixels(image: bytes | np.ndarray, max_pixels: int, max_bytes: int) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        return decode(image, max_pixels=max_pixels, max_bytes=max_bytes)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        got = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"an image array must be uint8 [H, W, 1 or 3], not {got}")
    return image


def _jpeg_header(image: bytes | np.ndarray, max_pixels: int, max_bytes: int) -> Jpeg | None:
    """The header of a JPEG that libjpeg-turbo can decode; None: anything else."""
    if isinstance(image, np.ndarray):
        return None
    return read_jpeg_header(image, max_pixels, max_bytes)


def random_crop(
    image: bytes | np.ndarray,
    size: int,
    augment: AugmentConfig,
    rng: Generator,
    *,
    max_pixels: int,
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """The random part of an image that is resized to a view.

    Of a JPEG, only what the crop needs is decoded: at 1/2, 1/4 or 1/8 of its size if the crop still
    has `size` pixels on each side; without the rows below the crop; and, where the TurboJPEG
    library is installed, without what is around the crop.

    Returns:
      uint8 [h, w, C].

    Raises:
      BadImage: see `decode`.
    """
    header = _jpeg_header(image, max_pixels, max_bytes)
    if isinstance(image, np.ndarray) or header is None:
        pixels = _as_pixels(image, max_pixels, max_bytes)
        return _crop(pixels, sample_box(pixels.shape[0], pixels.shape[1], size, augment, rng))
    full = header.size(1)
    box = sample_box(*full, size, augment, rng)
    min_size = (-(-size * full[0] // box[2]), -(-size * full[1] // box[3]))
    factor = header.factor(min_size)
    scaled = _scale_box(box, full, header.size(factor))
    try:
        return header.decode(image, factor, scaled)
    except jpeg.Unusual:
        return _crop(decode_with_pillow(image, max_pixels, max_bytes), box)


def _crop(pixels: np.ndarray, box: Box) -> np.ndarray:
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def _scale_box(box: Box, full: tuple[int, int], size: tuple[int, int]) -> Box:
    """The box of an image of size `full`, scaled to the same image of another size."""
    down, across = size[0] / full[0], size[1] / full[1]
    top, left, height, width = box
    height, width = max(1, round(height * down)), max(1, round(width * across))
    return (
        min(round(top * down), size[0] - height),
        min(round(left * across), size[1] - width),
        height,
        width,
    )
