"""From the bytes of an image file to the uint8 pixels of one example.

JPEG takes a fast path through libjpeg-turbo (`train/data/jpeg.py`); every other format, and every
JPEG that it refuses, is Pillow's to judge.
Normalising, mixing and erasing happen on the device (`train/prepare.py`).
"""

from __future__ import annotations

import functools
import io
import math
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image, UnidentifiedImageError

from train.data import jpeg
from train.data.jpeg import Box

if TYPE_CHECKING:
    from train.config import AugmentConfig

cv2.setNumThreads(0)  # the data loader has its own threads; a pool inside each would fight them

_ORIENTATION = 0x0112  # the Exif tag
_PILLOW_LIMIT = threading.Lock()  # held while Pillow's own limit on pixels, a global, is lifted


class BadImage(ValueError):
    """The bytes are not an image we can read; the message says why, the caller adds the name."""


def decode(data: bytes, *, max_pixels: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes one image file, upright and composited over white, to uint8 [H, W, 3] RGB.

    Of an animation, the first frame. Sixteen bits a channel are scaled to eight. `max_pixels`
    bounds H * W, and is checked on the header, before anything is decoded. `min_size` (height,
    width, in pixels, upright) lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size, as long as
    the result is no smaller than that; None means full size.

    Raises BadImage where the data is no image, is cut short or damaged, or has too many pixels.
    """
    header = _read_jpeg_header(data, max_pixels)
    if header is None:
        return _decode_with_pillow(data, max_pixels)
    try:
        return header.decode(data, header.factor(min_size or header.size(1)))
    except jpeg.Unusual:
        return _decode_with_pillow(data, max_pixels)


def train_image(
    image: bytes | np.ndarray,
    size: int,
    augment: AugmentConfig,
    rng: Generator,
    *,
    max_pixels: int,
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
        crop = random_crop(image, size, augment, rng, max_pixels=max_pixels)
        view = resize_crop(crop, size, out)
    else:
        view = eval_image(image, size, 1.0, max_pixels=max_pixels)
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
    image: bytes | np.ndarray, augment: AugmentConfig, rng: Generator, *, max_pixels: int
) -> tuple[Box, bool] | None:
    """(crop, whether it is mirrored) of `train_image`'s random_resized view, for another decoder.

    None: it is no upright, sequential, complete JPEG, which is left to `train_image`, and nothing
    was drawn. Raises BadImage.
    """
    header = None if isinstance(image, np.ndarray) else _read_jpeg_header(image, max_pixels)
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
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> np.ndarray:
    """The view that is evaluated: short side resized, then the centre, to uint8 [size, size, C].

    The short side becomes floor(size / crop_fraction), with `crop_fraction` in (0, 1] (timm's
    `crop_pct`; 224 / 0.875 is the usual 256); filters, antialiased both, and rounding are those of
    torchvision's Resize and CenterCrop on PIL images, so that published accuracies can be
    reproduced. JPEG is decoded at full size for the same reason. An array that is already right is
    returned as it is, not copied. Raises BadImage, see `decode`.
    """
    pixels = _as_pixels(image, max_pixels)
    # A strip of 1 x 10000 would first be resized to gigabytes, for a centre that sees none of it.
    reach = 8 * min(pixels.shape[:2])
    pixels = _centre(pixels, min(pixels.shape[0], reach), min(pixels.shape[1], reach))
    short = math.floor(size / crop_fraction)
    pixels = _resize_short_side(pixels, short, Image.Resampling[interpolation.upper()])
    return np.ascontiguousarray(_centre(pixels, size, size))


def _as_pixels(image: bytes | np.ndarray, max_pixels: int) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        return decode(image, max_pixels=max_pixels)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        got = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"an image array must be uint8 [H, W, 1 or 3], and this is {got}")
    return image


def _centre(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The central [height, width], rounded as in torchvision.transforms.functional.center_crop."""
    top = round((pixels.shape[0] - height) / 2)
    left = round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def _resize_short_side(pixels: np.ndarray, short: int, method: Image.Resampling) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(height, width)
    if side == short:
        return pixels
    height, width = int(short * height / side), int(short * width / side)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    resized = picture.resize((width, height), method)
    return np.asarray(resized).reshape(height, width, pixels.shape[2])


def random_crop(
    image: bytes | np.ndarray,
    size: int,
    augment: AugmentConfig,
    rng: Generator,
    *,
    max_pixels: int,
) -> np.ndarray:
    """The part of the image that a random_resized view shows, uint8 [h, w, C], not yet resized.

    Of a JPEG no more is decoded than it takes: at 1/2, 1/4 or 1/8 of its size where the crop still
    has `size` pixels each way, no rows below the crop, and nothing around it where the library for
    that is there. Raises BadImage.
    """
    header = None if isinstance(image, np.ndarray) else _read_jpeg_header(image, max_pixels)
    if isinstance(image, np.ndarray) or header is None:
        pixels = _as_pixels(image, max_pixels)
        return _cut(pixels, sample_crop(pixels.shape[0], pixels.shape[1], augment, rng))
    full = header.size(1)
    box = sample_crop(*full, augment, rng)
    enough = (-(-size * full[0] // box[2]), -(-size * full[1] // box[3]))
    factor = header.factor(enough)
    scaled = _scaled(box, full, header.size(factor))
    try:
        return header.decode(image, factor, scaled)
    except jpeg.Unusual:
        return _cut(_decode_with_pillow(image, max_pixels), box)


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
    does. Where it shrinks more, which no JPEG needs: the mean over an output pixel's area.
    """
    height, width, channels = pixels.shape
    out = np.empty((size, size, channels), np.uint8) if out is None else out
    target = out if channels == 3 else out[..., 0]  # OpenCV drops a channel axis of one
    down, across = max(height / size, 1.0), max(width / size, 1.0)
    if max(down, across) ** 2 > 5:
        cv2.resize(pixels, (size, size), dst=target, interpolation=cv2.INTER_AREA)
        return out
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


class _Jpeg(NamedTuple):
    """A JPEG's header in upright coordinates; decoding raises BadImage where it is cut short."""

    header: jpeg.Header
    orientation: int

    def _upright(self, size: tuple[int, int]) -> tuple[int, int]:
        return size if self.orientation < 5 else (size[1], size[0])

    def size(self, factor: int) -> tuple[int, int]:
        return self._upright(self.header.size(factor))

    def factor(self, enough: tuple[int, int]) -> int:
        return self.header.factor(self._upright(enough))

    def decode(self, data: bytes, factor: int, box: Box | None = None) -> np.ndarray:
        try:
            if box is not None and self.orientation == 1:
                return jpeg.decode_crop(data, self.header, factor, box)
            pixels = jpeg.decode(data, self.header, factor)
        except jpeg.Damaged as error:
            raise BadImage(f"truncated or damaged JPEG: {error}") from error
        pixels = _turn_upright(pixels, self.orientation)
        return pixels if box is None else _cut(pixels, box)


def _read_jpeg_header(data: bytes, max_pixels: int) -> _Jpeg | None:
    """None for Pillow's part: no JPEG, or four inks."""
    header = jpeg.read_header(data)
    if header is None or header.colours in ("CMYK", "YCCK"):
        return None
    _check_size(header.height, header.width, max_pixels)
    return _Jpeg(header, _orientation(_open(data, max_pixels)) if header.may_have_exif else 1)


def _decode_with_pillow(data: bytes, max_pixels: int) -> np.ndarray:
    picture = _open(data, max_pixels)
    if picture.format == "EPS":
        raise BadImage("EPS is a program for Ghostscript, which we do not run on data")
    try:
        picture.load()
        pixels = _to_rgb(picture)
    except Exception as error:  # plugins raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise BadImage(f"cannot decode this {picture.format}: {error}") from error
    return _turn_upright(pixels, _orientation(picture))


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header only."""
    try:
        with _PILLOW_LIMIT:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # `_check_size` has ours
            try:
                picture = Image.open(io.BytesIO(data))
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except UnidentifiedImageError:
        start = f"starts with {bytes(data[:16])!r}" if data else "the file is empty"
        raise BadImage(f"not an image: {start}") from None
    except Exception as error:
        raise BadImage(f"cannot read the header: {error}") from error
    _check_size(picture.height, picture.width, max_pixels)
    return picture


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if not 0 < height * width <= max_pixels:
        raise BadImage(f"{width}x{height} pixels; between 1 and {max_pixels} are allowed in all")


def _orientation(picture: Image.Image) -> int:
    """Exif 2.32, section 4.6.4: 1 is upright, 5 to 8 swap height and width."""
    with suppress(Exception):  # cameras and editors write broken Exif: that must not cost the image
        value = int(picture.getexif()[_ORIENTATION])
        return value if 1 <= value <= 8 else 1
    return 1


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::down, ::across])


def _to_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _to_8_bits(picture)
    elif picture.has_transparency_data:
        # Under transparent pixels the file holds arbitrary colours (black, noise, an earlier edit)
        # that no viewer shows; over white they look as they do on a page.
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Deep grey to mode "L"; Pillow's own conversion clips at 255 instead of scaling.

    Mode I holds 16-bit values as well (PGM, signed TIFF). Mode F has no fixed range: 0..1 and
    0..255 are in use, and what is in neither is refused rather than guessed.
    """
    values = np.array(picture, np.float32)
    white = 65535.0
    if picture.mode == "F":
        white = 1.0 if values.max() <= 1 else 255.0
    if not (values.min() >= 0 and values.max() <= white):  # NaN fails this as well
        raise ValueError(f"grey values of mode {picture.mode} outside 0..{white:g}")
    if "transparency" in picture.info:
        values[values == picture.info["transparency"]] = white
    return Image.fromarray(np.rint(values / white * 255).astype(np.uint8))
