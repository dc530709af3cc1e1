"""From an image file to the uint8 pixels of one example: cropped and resized.

Normalising, mixing and erasing happen on the device (`train/learn/prepare.py`).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Literal, TypedDict

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image

from train.data.images import jpeg
from train.data.images.decode import (
    MAX_BYTES,
    BadImage,
    decode,
    decode_with_pillow,
    read_jpeg_header,
)
from train.data.images.jpeg import Box

if TYPE_CHECKING:
    from train.config import AugmentConfig, DataConfig

__all__ = ["BadImage", "decode", "eval_image", "limits", "train_image"]

cv2.setNumThreads(0)  # the data loader has its own threads; a pool inside each would fight them

_MOST_RESIZED = 2**24  # pixels of a whole resized image, of which the centre is shown: 64 MB


class Limits(TypedDict):
    """What `decode` may take."""

    max_pixels: int
    max_bytes: int


def limits(data: DataConfig) -> Limits:
    """Those of a config: `max_pixels` and `max_image_bytes`."""
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
    """One training view of an image: crop, resize, flip, to uint8 [size, size, C].

    `image` is an encoded file (C = 3) or uint8 [H, W, C] with C = 1 or 3; it is not modified.
    `augment.crop` is one of
      "random_resized": a random part of the image, by area and aspect ratio (Szegedy et al. 2015,
          "Going deeper with convolutions", section 6);
      "pad": zeros on each side, then a random crop (He et al. 2015, "Deep residual learning",
          section 4.2);
      "none": the short side resized to `size`, and the centre.
    `out`, contiguous, is written and returned; without it, a new array.
    The view is a function of image, arguments and `rng`, from which every image draws equally
    often. Raises BadImage, see `decode`; of a JPEG, what is below the crop is not looked at.
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


def plan_view(
    image: bytes | np.ndarray,
    augment: AugmentConfig,
    rng: Generator,
    *,
    max_pixels: int,
    max_bytes: int = MAX_BYTES,
) -> tuple[Box, bool] | None:
    """(crop, whether it is mirrored) of `train_image`'s random_resized view, for another decoder.

    None: it is no upright, sequential, complete JPEG, which is left to `train_image`, and nothing
    was drawn. Raises BadImage.
    """
    header = (
        None if isinstance(image, np.ndarray) else read_jpeg_header(image, max_pixels, max_bytes)
    )
    if header is None or header.orientation != 1 or header.header.height_at is None:
        return None
    return sample_crop(*header.size(1), augment, rng), augment.flip and rng.random() < 0.5


def pad_offsets(words: np.ndarray, pad: int) -> np.ndarray:
    """Random 64-bit words -> where a crop lies in an image padded by `pad`, uniform in 0..2 pad.

    Args:
      words: uint64 [...], one of each image.

    Returns:
      int64 [..., 2], top and left: the word's lower and upper half, scaled (Lemire 2019,
      arXiv:1805.10941; what that rejects, one draw in 10^8, is a bias that nobody can see).
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
    """The view that is evaluated: short side resized, then the centre, to uint8 [size, size, C].

    The short side becomes floor(size / crop_fraction), with `crop_fraction` in (0, 1] (timm's
    `crop_pct`; 224 / 0.875 is the usual 256); filters, antialiased both, and rounding are those of
    torchvision's Resize and CenterCrop on PIL images, so that published accuracies can be
    reproduced: exactly, but for images longer than 256:1 (`_centre_of_strip`). JPEG is decoded at
    full size for the same reason. An array that is already right is returned as it is, not copied.
    Raises BadImage, see `decode`.
    """
    pixels = _as_pixels(image, max_pixels, max_bytes)
    short = math.floor(size / crop_fraction)
    method = Image.Resampling[interpolation.upper()]
    return np.ascontiguousarray(_resized_centre(pixels, short, size, method))


def _as_pixels(image: bytes | np.ndarray, max_pixels: int, max_bytes: int) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        return decode(image, max_pixels=max_pixels, max_bytes=max_bytes)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        got = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"an image array must be uint8 [H, W, 1 or 3], and this is {got}")
    return image


def _resized_centre(
    pixels: np.ndarray, short: int, size: int, method: Image.Resampling
) -> np.ndarray:
    """The central [size, size] of the image whose short side was resized to `short`."""
    height, width, channels = pixels.shape
    side = min(height, width)
    resized = int(short * height / side), int(short * width / side)
    # Rounded as in torchvision.transforms.functional.center_crop.
    top, left = (round((n - size) / 2) for n in resized)
    if side == short:
        return pixels[top : top + size, left : left + size]
    if math.prod(resized) > _MOST_RESIZED:
        return _centre_of_strip(pixels, resized, (top, left), size, method)
    found = _picture(pixels).resize(resized[::-1], method)
    return _cut(np.asarray(found).reshape(*resized, channels), (top, left, size, size))


def _centre_of_strip(
    pixels: np.ndarray,
    resized: tuple[int, int],
    place: tuple[int, int],
    size: int,
    method: Image.Resampling,
) -> np.ndarray:
    """`_resized_centre` of an image so long that the whole of it, resized, would take gigabytes.

    Pillow resizes only what is shown, from 32-bit coordinates: the source is first cut to the
    centre and more than the filter reaches, so that they are small. Of the pixels, 2 % differ by 1.
    (The whole of a tall image that shrinks, Pillow 13 resizes vertically first: there half may.)
    """
    reach = 4 * min(pixels.shape[:2]) + 16
    edges = []
    for axis, (whole, first) in enumerate(zip(resized, place, strict=True)):
        length = pixels.shape[axis]
        scale = length / whole
        start = max((length - reach) // 2, 0)
        pixels = pixels.take(range(start, min(start + reach, length)), axis)
        edges.append((first * scale - start, (first + size) * scale - start))
    (top, bottom), (left, right) = edges
    # One axis at a time: Pillow's order of the two depends on the box, and it rounds in between.
    found = _picture(pixels)
    found = found.resize((size, len(pixels)), method, box=(left, 0, right, len(pixels)))
    found = found.resize((size, size), method, box=(0, top, size, bottom))
    return np.asarray(found).reshape(size, size, pixels.shape[2])


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def random_crop(
    image: bytes | np.ndarray,
    size: int,
    augment: AugmentConfig,
    rng: Generator,
    *,
    max_pixels: int,
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """The part of the image that a random_resized view shows, uint8 [h, w, C], not yet resized.

    Of a JPEG no more is decoded than it takes: at 1/2, 1/4 or 1/8 of its size where the crop still
    has `size` pixels each way, no rows below the crop, and nothing around it where the library for
    that is there. Raises BadImage.
    """
    header = (
        None if isinstance(image, np.ndarray) else read_jpeg_header(image, max_pixels, max_bytes)
    )
    if isinstance(image, np.ndarray) or header is None:
        pixels = _as_pixels(image, max_pixels, max_bytes)
        return _cut(pixels, sample_crop(pixels.shape[0], pixels.shape[1], augment, rng))
    full = header.size(1)
    box = sample_crop(*full, augment, rng)
    enough = (-(-size * full[0] // box[2]), -(-size * full[1] // box[3]))
    factor = header.factor(enough)
    scaled = _scaled(box, full, header.size(factor))
    try:
        return header.decode(image, factor, scaled)
    except jpeg.Unusual:
        return _cut(decode_with_pillow(image, max_pixels, max_bytes), box)


def _cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def _scaled(box: Box, full: tuple[int, int], size: tuple[int, int]) -> Box:
    """Where a box of an image of size `full` is in the same image of another size."""
    down, across = size[0] / full[0], size[1] / full[1]
    top, left, height, width = box
    height, width = max(1, round(height * down)), max(1, round(width * across))
    return (
        min(round(top * down), size[0] - height),
        min(round(left * across), size[1] - width),
        height,
        width,
    )


def resize_crop(pixels: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """Resizes uint8 [H, W, C] to [size, size, C], antialiased, into `out` if it is given.

    Antialiased bilinear interpolation averages with a triangle as wide as two *output* pixels.
    Where it shrinks by s <= sqrt(5), this is that filter in two fast parts: neighbours mixed by the
    weights a, 1 - 2a, a, then plain interpolation (a triangle as wide as two input pixels), with
    a = (s^2 - 1) / 12, so that the variances, 2a + 1/6 = s^2 / 6, agree; at s = 2 every weight
    does. Where both axes shrink and one by more, which few JPEGs need: the mean over an output
    pixel's area. Where only one axis shrinks, by more: it is first shrunk to s = 2 by such means.
    """
    height, width, channels = pixels.shape
    out = np.empty((size, size, channels), np.uint8) if out is None else out
    target = out if channels == 3 else out[..., 0]  # OpenCV drops a channel axis of one
    down, across = max(height / size, 1.0), max(width / size, 1.0)
    if max(down, across) ** 2 > 5:
        if min(height, width) >= size:
            cv2.resize(pixels, (size, size), dst=target, interpolation=cv2.INTER_AREA)
            return out
        # OpenCV takes means only if no axis is enlarged.
        down, across = (2.0 if shrink**2 > 5 else shrink for shrink in (down, across))
        shape = (2 * size, height) if across == 2 else (width, 2 * size)
        pixels = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
    if max(down, across) > 1:
        pixels = cv2.sepFilter2D(
            pixels, -1, _mixed(across), _mixed(down), borderType=cv2.BORDER_REPLICATE
        )
    cv2.resize(pixels, (size, size), dst=target, interpolation=cv2.INTER_LINEAR)
    return out


@functools.lru_cache(maxsize=1024)
def _mixed(shrink: float) -> np.ndarray:
    side = (shrink * shrink - 1) / 12
    return np.array((side, 1 - 2 * side, side), np.float32)


def sample_crop(height: int, width: int, augment: AugmentConfig, rng: Generator) -> Box:
    """(top, left, height, width) as torchvision's RandomResizedCrop.get_params draws them.

    The first of ten candidates that fits, else the largest central crop of an allowed aspect.
    All are drawn at once, so that the number of draws does not depend on the image.
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
