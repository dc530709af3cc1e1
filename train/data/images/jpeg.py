"""The part of a JPEG that is needed: at a fraction of its size, and no rows below the crop.

Where libjpeg-turbo's own decoding of a region is unavailable (`train/data/images/turbojpeg.py`),
rows are skipped by writing a smaller height into a copy of the header: a sequential scan holds its
rows in order, and the decoder stops where the header says that the image ends. Either way the
pixels are the same bit for bit (`tests/data/test_jpeg.py`).
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
_REST = "extraneous bytes before marker 0xd9"  # the rows that were left off
_COEFFICIENTS = 2 * 3  # two bytes each, of three colours at full size
_CONTEXT = 2  # rows below the last one that smooth upsampling of its colours looks at


class Damaged(ValueError):
    """A JPEG that ends before its image does."""


class Unusual(ValueError):
    """A JPEG that libjpeg-turbo complains about."""


class Header(NamedTuple):
    """What a JPEG says of itself."""

    height: int
    """In pixels, as stored: before any Exif rotation."""
    width: int
    colours: str
    """As simplejpeg names them: YCbCr, Gray, RGB, CMYK or YCCK."""
    may_have_exif: bool
    height_at: int | None
    """Where in the file its height is, if it is safe to write a smaller one there."""
    coefficients: int
    """Bytes a pixel that decoding takes besides the result, where all coefficients are in memory at
    once: in a progressive JPEG, and in one with a scan for each colour."""

    def size(self, factor: int) -> tuple[int, int]:
        """(height, width) at 1 / `factor` of the size, as libjpeg rounds them."""
        return -(-self.height // factor), -(-self.width // factor)

    def factor(self, enough: tuple[int, int]) -> int:
        """The smallest size that libjpeg decodes to fast and that is `enough`, else the full one.

        Only halvings: 3/8, 5/8, ... take libjpeg-turbo longer than the next larger power of two.
        """
        for factor in (8, 4, 2):
            height, width = self.size(factor)
            if height >= enough[0] and width >= enough[1]:
                return factor
        return 1


def read_header(data: bytes) -> Header | None:
    """None: it is no JPEG, or one that libjpeg-turbo refuses."""
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
    whole = data.endswith(_END)  # else it may be cut short, which only decoding all of it shows
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xFF:
        marker = data[at + 1]
        if marker == _START_OF_SCAN:
            # A scan for each colour would have to be shortened three times.
            in_order = frame is not None and data[at + 4] == components
            return exif, frame if whole and in_order else None, 0 if in_order else _COEFFICIENTS
        if marker in _SEQUENTIAL and frame is None and data[at + 4] == 8:
            frame, components = at + 5, data[at + 9]
        exif |= marker == _APP1
        whole &= marker != _RESTARTS  # after damage, decoding goes on at the next one
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True, None, _COEFFICIENTS


def decode_crop(data: bytes, header: Header, factor: int, box: Box) -> np.ndarray:
    """Decodes a part of the image at 1 / `factor` of its size, to uint8 [h, w, 3] RGB, as stored.

    What is below it was not looked at. Raises what `decode` does.
    """
    top, left, height, width = box
    if header.height_at is not None:
        pixels = turbojpeg.decode(data, factor, header.size(factor), box)
        if pixels is not None:
            return pixels
    pixels = decode(data, header, factor, top + height)
    return pixels[top : top + height, left : left + width]


def decode(data: bytes, header: Header, factor: int = 1, rows: int | None = None) -> np.ndarray:
    """Decodes at 1 / `factor` of the size, to uint8 [H, W, 3] RGB, as stored.

    Args:
      factor: 1, 2, 4 or 8.
      rows: of the result, so many from the top are enough; None: all.

    Returns:
      At least `rows` rows. What is below them was not looked at, so damage there is not found;
      that the file ends too early is.

    Raises:
      Damaged: the image data end too early; libjpeg would paint the rest grey.
      Unusual: anything else is wrong with it.
    """
    given: bytes | bytearray = data
    height = header.height
    if rows is not None and header.height_at is not None:
        height = min((rows + _CONTEXT) * factor, height)
    if height < header.height:
        assert header.height_at is not None
        given = bytearray(data)
        given[header.height_at : header.height_at + 2] = height.to_bytes(2, "big")
    size = -(-height // factor), header.size(factor)[1]
    pixels = np.empty((*size, 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(given, "RGB", False, False, *size, buffer=pixels)
    except ValueError as error:
        # libjpeg-turbo tells the first thing that it finds, when it has decoded all that there is.
        if height < header.height and _REST in str(error):
            return pixels
        kind = Damaged if "premature end of data segment" in str(error) else Unusual
        raise kind(str(error)) from error
    return pixels
