"""Partial decoding of JPEGs: at a fraction of the size, and without the rows below the crop.

If libjpeg-turbo's decoding of a region is unavailable (`train/data/images/turbojpeg.py`), rows are
skipped by writing a smaller height into a copy of the header: a sequential scan stores its rows in
order, and the decoder stops at the height in the header. In both cases the pixels are bit-identical
to those of a full decoding (`tests/data/test_jpeg.py`).
"""

from typing import NamedTuple

import numpy as np
import simplejpeg

from train.data.images import turbojpeg

Box = tuple[int, int, int, int]
"""(top, left, height, width), in pixels."""

_APP1, _RESTARTS, _START_OF_SCAN = 0xE1, 0xDD, 0xDA  # markers
_SEQUENTIAL = (0xC0, 0xC1)
_END = b"\xff\xd9"
_REST = "extraneous bytes before marker 0xd9"  # libjpeg's warning about the skipped rows
_COEFFICIENTS = 2 * 3  # bytes per pixel: two for each of three colours at full resolution
_CONTEXT = 2  # rows below the last one that the upsampling of its colours reads


class Damaged(ValueError):
    """A JPEG that ends before its image is complete."""


class Unusual(ValueError):
    """A JPEG in which libjpeg-turbo reports a problem."""


class Header(NamedTuple):
    """The header of a JPEG."""

    height: int
    """In pixels, as stored: before any Exif rotation."""
    width: int
    colours: str
    """The colour space by simplejpeg's names: YCbCr, Gray, RGB, CMYK or YCCK."""
    may_have_exif: bool
    height_at: int | None
    """Offset of the height in the file; None: a smaller height must not be written there."""
    coefficients: int
    """Bytes per pixel that decoding needs in addition to the result. Progressive JPEGs, and JPEGs
    with one scan per colour, keep all coefficients in memory; others need 0."""

    def size(self, factor: int) -> tuple[int, int]:
        """(height, width) at 1 / `factor` of the size, as libjpeg rounds them."""
        return -(-self.height // factor), -(-self.width // factor)

    def factor(self, min_size: tuple[int, int]) -> int:
        """The largest factor of 8, 4, 2 and 1 whose `size` is at least `min_size`; else 1.

        Only powers of two: libjpeg-turbo takes longer for 3/8, 5/8, ... of the size than for the
        next larger power of two.
        """
        for factor in (8, 4, 2):
            height, width = self.size(factor)
            if height >= min_size[0] and width >= min_size[1]:
                return factor
        return 1


def read_header(data: bytes) -> Header | None:
    """The header of a JPEG; None if it is not a JPEG, or libjpeg-turbo refuses it."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return Header(height, width, colours, *_walk(data))


def _walk(data: bytes) -> tuple[bool, int | None, int]:
    """(`may_have_exif`, `height_at`, `coefficients`) from the segments before the first scan."""
    exif, frame, components = False, None, 0
    whole = data.endswith(_END)  # otherwise it may be truncated: only a full decoding shows that
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xFF:
        marker = data[at + 1]
        if marker == _START_OF_SCAN:
            # With one scan per colour, each scan would have to be shortened.
            in_order = frame is not None and data[at + 4] == components
            return exif, frame if whole and in_order else None, 0 if in_order else _COEFFICIENTS
        if marker in _SEQUENTIAL and frame is None and data[at + 4] == 8:
            frame, components = at + 5, data[at + 9]
        exif |= marker == _APP1
        whole &= marker != _RESTARTS  # decoding continues at the next restart marker after damage
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True, None, _COEFFICIENTS


def decode_crop(data: bytes, header: Header, factor: int, box: Box) -> np.ndarray:
    """Decodes a box of the image at 1 / `factor` of its size, as stored.

    Damage below the box is not found.

    Returns:
      uint8 [h, w, 3], RGB.

    Raises:
      Damaged, Unusual: see `decode`.
    """
    top, left, height, width = box
    if header.height_at is not None:
        pixels = turbojpeg.decode(data, factor, header.size(factor), box)
        if pixels is not None:
            return pixels
    pixels = decode(data, header, factor, top + height)
    return pixels[top : top + height, left : left + width]


def decode(data: bytes, header: Header, factor: int = 1, rows: int | None = None) -> np.ndarray:
    """Decodes at 1 / `factor` of the size, as stored.

    Args:
      factor: 1, 2, 4 or 8.
      rows: number of rows of the result that are needed, from the top; None: all.

    Returns:
      uint8 [H, W, 3], RGB, with at least `rows` rows. Damage below them is not found, except that
      the file is truncated.

    Raises:
      Damaged: the image data end too early; libjpeg would fill the rest with grey.
      Unusual: libjpeg-turbo reports another problem.
    """
    source: bytes | bytearray = data
    height = header.height
    if rows is not None and header.height_at is not None:
        height = min((rows + _CONTEXT) * factor, height)
    if height < header.height:
        assert header.height_at is not None
        source = bytearray(data)
        source[header.height_at : header.height_at + 2] = height.to_bytes(2, "big")
    size = -(-height // factor), header.size(factor)[1]
    pixels = np.empty((*size, 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(source, "RGB", False, False, *size, buffer=pixels)
    except ValueError as error:
        # libjpeg-turbo decodes everything, and then reports the first problem that it found.
        if height < header.height and _REST in str(error):
            return pixels
        kind = Damaged if "premature end of data segment" in str(error) else Unusual
        raise kind(str(error)) from error
    return pixels
