"""The memory of decoding is limited by an estimate from the header, which is measured here."""

import functools
import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image

from tests.data.test_images import png_chunk
from tests.runs import environment
from train.config import AugmentConfig
from train.data.images.crops import eval_image, train_image
from train.data.images.decode import BadImage, decode

HEIGHT, WIDTH = 2400, 2000
SPARE = 8 * 2**20  # what does not grow with the image: bands, filters, tables


def save(picture: Image.Image, kind: str, **options: Any) -> Callable[[], bytes]:
    def saved() -> bytes:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        return file.getvalue()

    return saved


def files() -> dict[str, Callable[[], bytes]]:
    """A large image of each kind."""
    small = np.random.default_rng(0).integers(0, 256, (60, 50, 4), dtype=np.uint8)
    pixels = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    rgba = Image.fromarray(pixels)
    rgb = rgba.convert("RGB")
    deep = pixels.astype(np.uint16) * 257
    turned = Image.Exif()
    turned[0x0112] = 6

    strip = [cv2.IMWRITE_TIFF_ROWSPERSTRIP, HEIGHT]
    return {
        "16-bit PNG": save(Image.fromarray(deep[..., 0]), "PNG", compress_level=1),
        "RGB PNG": save(rgb, "PNG", compress_level=1),
        "RGBA PNG": save(rgba, "PNG", compress_level=1),
        "JPEG": save(rgb, "JPEG"),
        "turned JPEG": save(rgb, "JPEG", exif=turned),
        "progressive JPEG": save(rgb, "JPEG", progressive=True, subsampling=0),
        "lossless WebP": save(rgb, "WEBP", lossless=True, method=0, quality=0),
        "JPEG 2000": save(rgba, "JPEG2000"),
        "turned TIFF": save(rgb, "TIFF", exif=turned, compression="tiff_lzw", strip_size=10**9),
        "16-bit TIFF": lambda: cv2.imencode(".tif", deep, strip)[1].tobytes(),
    }


def said(data: bytes) -> int:
    """The estimated memory of decoding in bytes, from the header."""
    with pytest.raises(BadImage) as refused:
        decode(data, max_pixels=10**9, max_bytes=1)
    match = re.search(r"takes ([\d,]+) MiB", str(refused.value))
    assert match, refused.value
    return int(match[1].replace(",", "")) * 2**20


MEASURE = """
import re, sys
from PIL import Image
from train.data.images.crops import eval_image

def view(file):
    eval_image(open(file, "rb").read(), 64, 0.875, max_pixels=10**9, max_bytes=10**12)
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])

Image.init()
small, large = map(view, sys.argv[1:])
print(1024 * (large - small))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's largest size, from /proc")
def test_decoding_takes_what_it_is_said_to_take(tmp_path):
    """The peak memory growth of a new process that decodes the image."""
    (tmp_path / "small").write_bytes(save(Image.new("LA", (9, 9)), "PNG")())
    for kind, make in files().items():
        data = make()
        (tmp_path / "large").write_bytes(data)
        args = [sys.executable, "-c", MEASURE, str(tmp_path / "small"), str(tmp_path / "large")]
        env = environment()
        done = subprocess.run(args, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        measured, estimate = int(done.stdout), said(data)
        assert 0.4 * estimate < measured < estimate + len(data) + SPARE, (kind, measured, estimate)


@functools.cache
def bomb(mode: str) -> bytes:
    """A small PNG of 100 megapixels, all of them 0."""
    kind = {"1": (1, 0), "RGBA": (8, 6)}[mode]
    row = bytes(10_000 * kind[0] // 8 * {0: 1, 6: 4}[kind[1]] + 1)
    packer = zlib.compressobj()
    body = b"".join([packer.compress(row) for _ in range(10_000)]) + packer.flush()
    header = struct.pack(">IIBBBBB", 10_000, 10_000, *kind, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("mode", ["1", "RGBA"])
def test_a_bomb_is_refused_by_what_it_would_take(mode, monkeypatch):
    data = bomb(mode)
    monkeypatch.setattr(Image.Image, "load", lambda picture: pytest.fail("it was decoded"))
    assert len(data) < 500_000
    message = r"100.*decoding takes 668 MiB of memory, and 512 are allowed \(--data.max_image"
    with pytest.raises(BadImage, match=message):
        decode(data, max_pixels=10**8, max_bytes=512 * 2**20)


@pytest.mark.parametrize("container", ["ICO", "ICNS"])
def test_an_icon_is_as_large_as_the_image_in_it(container):
    """The sizes in its header do not matter."""
    inner = bomb("RGBA")
    if container == "ICO":
        data = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    else:
        data = b"icns" + struct.pack(">I4sI", len(inner) + 16, b"icp4", len(inner) + 8)
    with pytest.raises(BadImage, match="10000x10000 pixels; between 1 and 99999999"):
        decode(data + inner, max_pixels=99_999_999)
    with pytest.raises(BadImage, match="10000x10000 pixels: decoding takes 668 MiB"):
        decode(data + inner, max_pixels=10**8, max_bytes=10**8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_bound_is_the_same_for_training_and_evaluation(kind):
    data = save(Image.new("RGB", (200, 300)), kind)()
    augment = AugmentConfig(crop="random_resized")
    needed = 300 * 200 * 7
    for limit in (needed, needed - 1):
        limits = {"max_pixels": 10**6, "max_bytes": limit}
        for view in (
            functools.partial(eval_image, data, 32, 0.875, **limits),
            functools.partial(train_image, data, 32, augment, default_rng(0), **limits),
        ):
            if limit == needed:
                assert view().shape == (32, 32, 3)
                continue
            with pytest.raises(BadImage, match=r"--data\.max_image_bytes"):
                view()
