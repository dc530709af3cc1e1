"""The training and evaluation views of an image: decoded, cropped, resized, flipped.

Views are uint8. The device normalises, mixes and erases them (`train/learn/prepare.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypedDict

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
from train.data.images.jpeg import Box
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
    """A random training view of an image: crop, resize, flip.

    `augment.crop` is one of

    - "random_resized": a random part of the image, by area and aspect ratio (Szegedy et al. 2015,
      "Going deeper with convolutions", section 6);
    - "pad": zeros added on each side, then a random crop (He et al. 2015, "Deep residual learning",
      section 4.2);
    - "none": the short side is resized to `size`, and the centre is cropped.

    The view is a function of the image, the arguments and `rng`. Every image takes the same number
    of random draws.

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
    if augment.crop == "random_resized":
        crop = random_crop(image, size, augment, rng, max_pixels=max_pixels, max_bytes=max_bytes)
        view = resize_crop(crop, size, out)
    else:
        view = eval_image(image, size, 1.0, max_pixels=max_pixels, max_bytes=max_bytes)
        if augment.crop == "pad":
            pad = augment.pad
            top, left = pad_offsets(rng.bit_generator.random_raw(1), pad)[0]
            padded = np.pad(view, ((pad, pad), (pad, pad), (0, 0)))
            view = padded[top : top + size, left : left + size]
        out = np.empty(view.shape, np.uint8) if out is None else out
        out[...] = view
        view = out
    if augment.flip and rng.random() < 0.5:
        cv2.flip(view, 1, dst=view)  # in place; NumPy takes 40 times as long
    return view


def sample_view(
    image: bytes | np.ndarray,
    augment: AugmentConfig,
    rng: Generator,
    *,
    max_pixels: int,
    max_bytes: int = MAX_BYTES,
) -> tuple[Box, bool] | None:
    """Samples the crop and the flip of a random_resized view, for another decoder (DALI).

    Returns:
      (crop, whether it is flipped), the same as `train_image` draws; None, with nothing drawn from
      `rng`, if the image is not an upright, sequential, complete JPEG: use `train_image` then.

    Raises:
      BadImage: see `decode`.
    """
    header = _jpeg_header(image, max_pixels, max_bytes)
    if header is None or header.orientation != 1 or header.header.height_at is None:
        return None
    return sample_crop(*header.size(1), augment, rng), augment.flip and rng.random() < 0.5


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
    """The random part of an image that a random_resized view shows, before it is resized.

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
        return _crop(pixels, sample_crop(pixels.shape[0], pixels.shape[1], augment, rng))
    full = header.size(1)
    box = sample_crop(*full, augment, rng)
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
