"""Icon files (ICO, CUR, ICNS), which contain several images: extracts the largest one."""

import io
import struct
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from PIL import Image

_PNG, _JPEG_2000 = b"\x89PNG\r\n\x1a\n", b"\0\0\0\x0cjP  \r\n\x87\n"
_ICO, _CUR = b"\0\0\1\0", b"\0\0\2\0"


def largest(data: bytes) -> bytes:
    """The largest image of an ICO, CUR or ICNS as a separate file; other files are returned as is.

    Pillow decodes the first image of an ICO while it opens the file, and the sizes in the file's
    header may be wrong, so our limits on size could not be checked before decoding.
    """
    if data.startswith(b"icns"):
        blocks = [block for block in _blocks(data) if block.startswith((_PNG, _JPEG_2000))]
        return max(blocks, key=_pixels, default=data)
    if data.startswith((_ICO, _CUR)) and len(data) >= 22:
        count = min(struct.unpack_from("<H", data, 4)[0], (len(data) - 6) // 16)
        entries = [data[6 + 16 * i :][:16] for i in range(count)]
        if entries:
            # A width or height of 0 means 256. Of equal sizes, the one with the most bits is used.
            entry = max(entries, key=lambda e: ((e[0] or 256) * (e[1] or 256), e[6] + (e[7] << 8)))
            length, at = struct.unpack_from("<II", entry, 8)
            inner = data[at : at + length]
            if inner.startswith(_PNG):
                return inner
            one = data[:4] + b"\1\0" + entry[:12] + struct.pack("<I", 22)
            return one + inner
    return data


def _blocks(data: bytes) -> Iterator[bytes]:
    """The contents of an ICNS."""
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "big")
        if length < 8:
            return
        yield data[at + 8 : at + length]
        at += length


def _pixels(data: bytes) -> int:
    with suppress(Exception):
        return int(np.prod(Image.open(io.BytesIO(data), formats=("PNG", "JPEG2000")).size))
    return 0
