"""Resizing an image: training crops with OpenCV (bicubic: Pillow), evaluation images with Pillow as
torchvision does.

Both filters are antialiased.
"""

import functools
import math

import cv2
import numpy as np
from PIL import Image

cv2.setNumThreads(0)  # the data loader has threads; OpenCV's own pool would compete with them

_MAX_RESIZED = 2**24  # pixels (64 MB); larger results are computed only where the crop is


def resize_crop(
    pixels: np.ndarray,
    size: int,
    out: np.ndarray | None = None,
    method: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Resizes a training crop, uint8 [H, W, C], to [size, size, C].

    Other filters than bilinear are Pillow's, which are antialiased. For bilinear, this approximates
    antialiased interpolation, whose filter is a triangle as wide as two
    *output* pixels. The method depends on how much an axis shrinks, s = input / output:

    - s <= sqrt(5): a blur with the weights a, 1 - 2a, a, then plain bilinear interpolation, whose
      triangle is as wide as two input pixels. With a = (s^2 - 1) / 12 the two have the variance of
      the exact filter: 2a + 1/6 = s^2 / 6. At s = 2 all weights are exact.
    - Both axes shrink, and one by more than sqrt(5) (rare for JPEGs, which are decoded at a smaller
      scale): the mean over the area of each output pixel.
    - One axis shrinks by more than sqrt(5) and the other is enlarged: area means first bring the
      shrinking axis to s = 2.

    Args:
      out: contiguous uint8 [size, size, C] for the result; None: a new array.

    Returns:
      uint8 [size, size, C].
    """
    height, width, channels = pixels.shape
    out = np.empty((size, size, channels), np.uint8) if out is None else out
    if method != Image.Resampling.BILINEAR:
        out[...] = np.asarray(_to_pillow(pixels).resize((size, size), method)).reshape(out.shape)
        return out
    target = out if channels == 3 else out[..., 0]  # OpenCV drops a channel axis of length 1
    down, across = max(height / size, 1.0), max(width / size, 1.0)
    if max(down, across) ** 2 > 5:
        if min(height, width) >= size:
            cv2.resize(pixels, (size, size), dst=target, interpolation=cv2.INTER_AREA)
            return out
        # OpenCV computes area means only if no axis is enlarged.
        down, across = (2.0 if shrink**2 > 5 else shrink for shrink in (down, across))
        shape = (2 * size, height) if across == 2 else (width, 2 * size)
        pixels = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
    if max(down, across) > 1:
        pixels = cv2.sepFilter2D(
            pixels, -1, _blur(across), _blur(down), borderType=cv2.BORDER_REPLICATE
        )
    cv2.resize(pixels, (size, size), dst=target, interpolation=cv2.INTER_LINEAR)
    return out


@functools.lru_cache(maxsize=1024)
def _blur(shrink: float) -> np.ndarray:
    """The blur's weights, float32 [3], for an axis that shrinks by `shrink`."""
    side = (shrink * shrink - 1) / 12
    return np.array((side, 1 - 2 * side, side), np.float32)


def resized_centre(
    pixels: np.ndarray, short: int, size: int, method: Image.Resampling
) -> np.ndarray:
    """Resizes the short side to `short` and crops the centre, as torchvision does on PIL images.

    Args:
      pixels: uint8 [H, W, C] with C = 1 or 3.

    Returns:
      uint8 [size, size, C].
    """
    height, width, channels = pixels.shape
    side = min(height, width)
    resized = int(short * height / side), int(short * width / side)
    # Rounded as in torchvision.transforms.functional.center_crop.
    top, left = (round((n - size) / 2) for n in resized)
    if side == short:
        return pixels[top : top + size, left : left + size]
    if math.prod(resized) > _MAX_RESIZED:
        return _centre_of_strip(pixels, resized, (top, left), size, method)
    whole = np.asarray(_to_pillow(pixels).resize(resized[::-1], method))
    return whole.reshape(*resized, channels)[top : top + size, left : left + size]


def _centre_of_strip(
    pixels: np.ndarray,
    resized: tuple[int, int],
    offset: tuple[int, int],
    size: int,
    method: Image.Resampling,
) -> np.ndarray:
    """`resized_centre` of an image so long that its resized whole would take gigabytes.

    Only the crop is resized. Pillow's box coordinates are 32-bit floats, so the source is first cut
    to its centre, with a margin wider than the filter, to keep them small. 2 % of the pixels differ
    by 1 from those of `resized_centre`. (In a tall image that shrinks up to half of them may,
    because Pillow 13 resizes its whole vertically first.)
    """
    reach = 4 * min(pixels.shape[:2]) + 16
    edges = []
    for axis, (whole, first) in enumerate(zip(resized, offset, strict=True)):
        length = pixels.shape[axis]
        scale = length / whole
        start = max((length - reach) // 2, 0)
        pixels = pixels.take(range(start, min(start + reach, length)), axis)
        edges.append((first * scale - start, (first + size) * scale - start))
    (top, bottom), (left, right) = edges
    # One axis at a time: Pillow's order of the two depends on the box, and it rounds in between.
    found = _to_pillow(pixels)
    found = found.resize((size, len(pixels)), method, box=(left, 0, right, len(pixels)))
    found = found.resize((size, size), method, box=(0, top, size, bottom))
    return np.asarray(found).reshape(size, size, pixels.shape[2])


def _to_pillow(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
