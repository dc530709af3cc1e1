"""Decoding a region of a JPEG with the TurboJPEG library, 3.0 or later, if it is installed.

No Python package offers this function, so a few functions of the library's C API (turbojpeg.h) are
called through ctypes. The library comes with the operating system, or with the Python package
`turbojpeg` (the extra `turbojpeg` of this project), of which nothing else is used. Without it,
`train/data/images/jpeg.py` decodes more than the region.
"""

import ctypes
import functools
import threading
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from importlib.util import find_spec
from pathlib import Path

import numpy as np

_NAMES = ("libturbojpeg.so.0", "libturbojpeg.0.dylib")
_DECOMPRESS, _SUBSAMPLING, _RGB = 1, 4, 0  # TJINIT_DECOMPRESS, TJPARAM_SUBSAMP, TJPF_RGB
_BLOCK = {0: 8, 1: 16, 2: 16, 3: 8, 4: 8, 5: 32, 6: 8}  # TJSAMP_... -> width of a block
_CONTEXT = 2  # pixels around the region that the upsampling of its colours reads
_per_thread = threading.local()


class _Region(ctypes.Structure):
    _fields_ = [(name, c_int) for name in ("x", "y", "width", "height")]


class _Factor(ctypes.Structure):
    _fields_ = [("numerator", c_int), ("denominator", c_int)]


_FUNCTIONS = {
    "tj3Init": (c_void_p, [c_int]),
    "tj3Destroy": (None, [c_void_p]),
    "tj3Get": (c_int, [c_void_p, c_int]),
    "tj3DecompressHeader": (c_int, [c_void_p, c_char_p, c_size_t]),
    "tj3SetScalingFactor": (c_int, [c_void_p, _Factor]),
    "tj3SetCroppingRegion": (c_int, [c_void_p, _Region]),
    "tj3Decompress8": (c_int, [c_void_p, c_char_p, c_size_t, c_void_p, c_int, c_int]),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, with its functions declared; None: no suitable version is installed."""
    package = find_spec("turbojpeg")
    folder = Path(package.origin).parent if package and package.origin else None
    packaged = sorted(folder.glob("turbojpeg.libs/libturbojpeg*")) if folder else []
    for name in (*map(str, packaged), *_NAMES):
        try:
            found = ctypes.CDLL(name)
            for function, (result, arguments) in _FUNCTIONS.items():
                getattr(found, function).restype = result
                getattr(found, function).argtypes = arguments
        except (OSError, AttributeError):  # not installed, or older than 3.0
            continue
        return found
    return None


class _Decoder:
    """A decoder of one thread; two threads must not use it at the same time."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._handle = library.tj3Init(_DECOMPRESS)

    def __del__(self) -> None:
        self._library.tj3Destroy(self._handle)

    def decode(
        self, data: bytes, factor: int, size: tuple[int, int], box: tuple[int, int, int, int]
    ) -> np.ndarray | None:
        tj, handle = self._library, self._handle
        if tj.tj3DecompressHeader(handle, data, len(data)):
            return None
        block = _BLOCK.get(tj.tj3Get(handle, _SUBSAMPLING))
        if block is None:
            return None
        top, left, height, width = box
        # The left edge of the region must be that of a block; the other edges are free.
        block_width = -(-block // factor)
        x, y = max(left - _CONTEXT, 0) // block_width * block_width, max(top - _CONTEXT, 0)
        bottom = min(top + height + _CONTEXT, size[0])
        right = min(left + width + _CONTEXT, size[1])
        pixels = np.empty((bottom - y, right - x, 3), np.uint8)
        region = _Region(x, y, right - x, bottom - y)
        failed = (
            tj.tj3SetScalingFactor(handle, _Factor(1, factor))
            or tj.tj3SetCroppingRegion(handle, region)
            or tj.tj3Decompress8(handle, data, len(data), pixels.ctypes.data, 0, _RGB)
        )
        tj.tj3SetCroppingRegion(handle, _Region())  # the next header is checked against it
        return None if failed else pixels[top - y :, left - x :][:height, :width]


def decode(
    data: bytes, factor: int, size: tuple[int, int], box: tuple[int, int, int, int]
) -> np.ndarray | None:
    """Decodes a box of a JPEG at 1 / `factor` of its size, as stored.

    The pixels are bit-identical to those of the whole image (`tests/data/test_jpeg.py`).

    Args:
      size: (height, width) of the whole image at that scale.
      box: (top, left, height, width) at that scale.

    Returns:
      uint8 [height, width, 3], RGB; None if the library is not installed or reports any problem.
    """
    if not hasattr(_per_thread, "decoder"):
        found = library()
        _per_thread.decoder = found and _Decoder(found)
    return _per_thread.decoder and _per_thread.decoder.decode(data, factor, size, box)
