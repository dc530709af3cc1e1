"""Decodes image files to uint8 RGB, within a memory limit.

libjpeg-turbo decodes JPEGs (`train/data/images/jpeg.py`). Pillow decodes all other formats, and the
JPEGs that libjpeg-turbo refuses.
"""

from __future__ import annotations

import functools
import io
import threading
from contextlib import suppress
from typing import NamedTuple, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from train.data.images import icons, jpeg
from train.data.images.jpeg import Box

MAX_BYTES = 768 * 2**20
"""Default of `data.max_image_bytes`."""

_FORMATS = (
    *("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000"),
    *("ICO", "CUR", "ICNS", "TGA", "PCX", "DCX", "SGI", "SUN", "QOI", "PSD", "DDS", "IM"),
    *("XBM", "XPM", "MSP", "PIXAR", "FLI"),
)
"""The formats that Pillow may read. Other formats run programs (EPS), need a plugin, or contain
another image whose size is not in their header (BLP, IPTC)."""

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands
_NOT_READ = {
    b"%!PS": "EPS is a program for Ghostscript, which we do not run on data",
    b"\xc5\xd0\xd3\xc6": "EPS is a program for Ghostscript, which we do not run on data",
    b"%PDF": "PDF is not read",
    b"<svg": "SVG is not read",
    b"\xff\x0a": "JPEG XL is not read",
    b"\0\0\0\x0cJXL ": "JPEG XL is not read",
}
_ORIENTATION = 0x0112  # the Exif tag
_PILLOW_LIMIT = threading.Lock()  # held while Pillow's global limit on pixels is disabled

# Bytes per pixel:
_RESULT = 3  # of the result, uint8 RGB
_RESIZED = 7  # of the result and Pillow's copy of it (4) when it is resized
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Bytes per pixel in Pillow's memory, by mode; 4 for all others."""
_EXTRA = {"WEBP": 12, "AVIF": 9, "JPEG2000": 20, "TIFF": 6}
"""Additional bytes per pixel of a decoder, measured (`tests/data/test_decode_memory.py`)."""
_BAND = 2**18  # pixels that are converted at once


class BadImage(ValueError):
    """The bytes are not a readable image. The message has the reason; the caller adds the name."""


class Jpeg(NamedTuple):
    """The header of a JPEG, in upright coordinates (after the Exif rotation)."""

    header: jpeg.Header
    orientation: int

    def _upright(self, size: tuple[int, int]) -> tuple[int, int]:
        return size if self.orientation < 5 else (size[1], size[0])

    def size(self, factor: int) -> tuple[int, int]:
        """(height, width) at 1 / `factor` of the size."""
        return self._upright(self.header.size(factor))

    def factor(self, min_size: tuple[int, int]) -> int:
        """See `jpeg.Header.factor`."""
        return self.header.factor(self._upright(min_size))

    def decode(self, data: bytes, factor: int, box: Box | None = None) -> np.ndarray:
        """Decodes at 1 / `factor` of the size, to uint8 [H, W, 3], or only the `box` of that.

        Raises:
          BadImage: the file is truncated.
          jpeg.Unusual: libjpeg-turbo reports another problem; Pillow may decode it.
        """
        try:
            if box is not None and self.orientation == 1:
                return jpeg.decode_crop(data, self.header, factor, box)
            pixels = jpeg.decode(data, self.header, factor)
        except jpeg.Damaged as error:
            raise BadImage(f"truncated or damaged JPEG: {error}") from error
        pixels = _turn_upright(pixels, self.orientation)
        if box is None:
            return pixels
        top, left, height, width = box
        return pixels[top : top + height, left : left + width]


def decode(
    data: bytes,
    *,
    max_pixels: int,
    max_bytes: int = MAX_BYTES,
    min_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decodes an image file, upright and composited over white.

    Of an animation the first frame is decoded, and of an icon the largest image. Channels of 16
    bits are scaled to 8.

    Args:
      max_pixels: limit on H * W. Like `max_bytes`, it is checked before decoding.
      max_bytes: limit on the memory that decoding, and resizing the result, needs.
      min_size: (height, width) in pixels, upright. A JPEG may be decoded at 1/2, 1/4 or 1/8 of its
        size if the result is not smaller than this; None: full size.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      BadImage: the data is not an image, is truncated or damaged, or needs too much memory.
    """
    header = read_jpeg_header(data, max_pixels, max_bytes)
    if header is None:
        return decode_with_pillow(data, max_pixels, max_bytes)
    try:
        return header.decode(data, header.factor(min_size or header.size(1)))
    except jpeg.Unusual:
        return decode_with_pillow(data, max_pixels, max_bytes)


def read_jpeg_header(data: bytes, max_pixels: int, max_bytes: int) -> Jpeg | None:
    """The header of a JPEG; None if Pillow has to decode the file: no JPEG, or a CMYK JPEG.

    Raises:
      BadImage: decoding needs too much memory.
    """
    header = jpeg.read_header(data)
    if header is None or header.colours in ("CMYK", "YCCK"):
        return None
    each = max(_RESIZED, _RESULT + header.coefficients)
    _check_size("JPEG", header.height, header.width, each, max_pixels, max_bytes)
    orientation = 1
    if header.may_have_exif:
        orientation = _orientation(_open(data, max_pixels, max_bytes))
    return Jpeg(header, orientation)


def decode_with_pillow(data: bytes, max_pixels: int, max_bytes: int) -> np.ndarray:
    """`decode` with Pillow only, for any format."""
    picture = _open(data, max_pixels, max_bytes)
    each = max(_RESIZED, _bytes_per_pixel(picture))
    _check_size(_kind(picture), picture.height, picture.width, each, max_pixels, max_bytes)
    try:
        picture.load()
        pixels = _to_rgb(picture)
    except Exception as error:  # plugins raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise BadImage(f"cannot decode this {picture.format}: {error}") from error
    orientation = _orientation(picture)  # in a PNG it may be stored after the pixels
    del picture  # frees its pixels before `_turn_upright` makes a copy
    return _turn_upright(pixels, orientation)


def _bytes_per_pixel(picture: Image.Image) -> int:
    kind = picture.format or ""
    extra = _EXTRA.get(kind, 0)
    if kind in ("JPEG", "MPO") and (picture.info.get("progressive") or picture.mode == "CMYK"):
        extra = 2 * len(picture.getbands())  # the decoder stores all coefficients
    return _STORED.get(picture.mode, 4) + extra + _RESULT


def _kind(picture: Image.Image) -> str:
    return f"{picture.format} of mode {picture.mode}"


def _open(data: bytes, max_pixels: int, max_bytes: int) -> Image.Image:
    """Reads the header only."""
    data = icons.largest(data)
    try:
        with _PILLOW_LIMIT:
            # `_check_size` applies our limit instead.
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                picture = Image.open(io.BytesIO(data), formats=_formats())
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except UnidentifiedImageError:
        raise BadImage(_what_it_is(data)) from None
    except Exception as error:
        raise BadImage(f"cannot read the header: {error}") from error
    _check_size(_kind(picture), picture.height, picture.width, 0, max_pixels, max_bytes)
    return picture


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]  # older versions have fewer


def _what_it_is(data: bytes) -> str:
    """The reason why Pillow cannot open the file, from its first bytes."""
    if not data:
        return "not an image: the file is empty"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
        return (
            "HEIC is not read; convert it to JPEG, e.g. by `heif-convert IN.heic OUT.jpg` or, on "
            "macOS, `sips -s format jpeg IN.heic --out OUT.jpg`"
        )
    for start, name in _NOT_READ.items():
        if data.startswith(start):
            return f"{name}; convert it to PNG or JPEG"
    return f"not an image: starts with {repr(bytes(data[:16]))[1:]}"  # without Python's b


def _check_size(
    kind: str, height: int, width: int, each: int, max_pixels: int, max_bytes: int
) -> None:
    """Raises BadImage if an image is too large; `each`: bytes per pixel that decoding needs."""
    if not 0 < height * width <= max_pixels:
        raise BadImage(
            f"{width}x{height} pixels; between 1 and {max_pixels} are allowed in all "
            "(--data.max_pixels)"
        )
    if height * width * each > max_bytes:
        raise BadImage(
            f"{kind}, {width}x{height} pixels: decoding takes {height * width * each / 2**20:,.0f} "
            f"MiB of memory, and {max_bytes / 2**20:,.0f} are allowed (--data.max_image_bytes)"
        )


def _orientation(picture: Image.Image) -> int:
    """The Exif orientation (Exif 2.32, 4.6.4): 1 is upright, 5 to 8 swap height and width."""
    with suppress(Exception):  # broken Exif data, which cameras and editors write, are ignored
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
    """uint8 [H, W, 3], converted in bands of rows, because each conversion copies its input."""
    white = _white(picture)
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    rows = max(_BAND // picture.width, 1)
    for top in range(0, picture.height, rows):
        bottom = min(top + rows, picture.height)
        # A crop is a copy too, and Pillow checks its size against a limit that is not ours.
        whole = bottom - top == picture.height
        band = picture if whole else picture.crop((0, top, picture.width, bottom))
        pixels[top:bottom] = np.asarray(_band_to_rgb(band, white))
    return pixels


def _white(picture: Image.Image) -> float | None:
    """The grey value that becomes 255, for modes of more than 8 bits; None for other modes.

    Mode I has 16-bit values too (PGM, signed TIFF). Mode F has no fixed range: both 0..1 and 0..255
    are in use.
    """
    if picture.mode == "F":
        _, high = cast(tuple[float, float], picture.getextrema())
        return 1.0 if high <= 1 else 255.0
    return 65535.0 if picture.mode == "I" or picture.mode.startswith("I;16") else None


def _band_to_rgb(band: Image.Image, white: float | None) -> Image.Image:
    if white is not None:
        band = _to_8_bits(band, white)
    elif band.has_transparency_data:
        # The colours of transparent pixels are arbitrary (black, noise, an earlier edit). Over
        # white the image looks as it does in a viewer or on a page.
        page = Image.new("RGBA", band.size, "white")
        page.alpha_composite(band.convert("RGBA"))
        band = page
    return band.convert("RGB")


def _to_8_bits(band: Image.Image, white: float) -> Image.Image:
    """Scales grey values of more than 8 bits to mode "L"; Pillow's conversion clips at 255.

    Raises:
      ValueError: values outside of the expected range, whose scale is unknown.
    """
    values = np.array(band, np.float32)
    if not (values.min() >= 0 and values.max() <= white):  # also False for NaN
        raise ValueError(f"grey values of mode {band.mode} outside 0..{white:g}")
    if "transparency" in band.info:
        values[values == band.info["transparency"]] = white
    return Image.fromarray(np.rint(values / white * 255).astype(np.uint8))
