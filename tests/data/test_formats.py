"""`decode` for each image format, with files written by Pillow."""

import contextlib

import numpy as np
import pytest
from PIL import Image, features

from tests.data.test_images import LIMIT, difference, encode, noise, smooth
from train.data.images.decode import BadImage, decode

EXACT = {  # extension -> Pillow's name and options
    "png": ("PNG", {}),
    "bmp": ("BMP", {}),
    "dib": ("DIB", {}),
    "tif": ("TIFF", {}),
    "tif, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "tif, deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tif, pack bits": ("TIFF", {"compression": "packbits"}),
    "ppm": ("PPM", {}),
    "webp": ("WEBP", {"lossless": True}),
    "jp2": ("JPEG2000", {"irreversible": False}),
    "tga": ("TGA", {}),
    "pcx": ("PCX", {}),
    "sgi": ("SGI", {}),
    "qoi": ("QOI", {}),
    "dds": ("DDS", {}),
    "ico": ("ICO", {"sizes": [(64, 48)]}),
    "ico, bitmap": ("ICO", {"sizes": [(64, 48)], "bitmap_format": "bmp"}),
}
CLOSE = {"jfif": ("JPEG", {}), "webp": ("WEBP", {}), "jp2": ("JPEG2000", {"quality_layers": [20]})}


def has(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE or (kind == "AVIF" and not features.check("avif")):
        pytest.skip(f"this Pillow does not write {kind}")


@pytest.mark.parametrize("extension", EXACT)
def test_lossless_formats(extension):
    kind, options = EXACT[extension]
    has(kind)
    pixels = noise(48, 64)
    data = encode(pixels, kind, **options)
    np.testing.assert_array_equal(decode(data, max_pixels=LIMIT), pixels)


@pytest.mark.parametrize("extension", [*CLOSE, "avif"])
def test_lossy_formats(extension):
    kind, options = CLOSE.get(extension, ("AVIF", {"quality": 90}))
    has(kind)
    pixels = smooth(48, 64)
    assert difference(decode(encode(pixels, kind, **options), max_pixels=LIMIT), pixels) < 3


def test_gif():
    pixels = np.kron(noise(6, 8), np.ones((8, 8, 1), np.uint8))  # 48 colours
    picture = Image.fromarray(pixels).quantize(256, method=Image.Quantize.FASTOCTREE)
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(decode(encode(picture, "GIF"), max_pixels=LIMIT), expected)
    clear = picture.getpixel((0, 0))
    found = decode(encode(picture, "GIF", transparency=clear), max_pixels=LIMIT)
    assert (found[0, 0] == 255).all()
    other = np.asarray(picture) != clear
    np.testing.assert_array_equal(found[other], expected[other])


@pytest.mark.parametrize("kind, mode", [("TIFF", "RGBA"), ("ICO", "RGBA"), ("PNG", "RGBA")])
def test_transparency_over_white(kind, mode):
    pixels = noise(48, 64, 4)
    pixels[..., 3] = 0
    pixels[:, 32:, 3] = 255
    options = {"sizes": [(64, 48)]} if kind == "ICO" else {}
    found = decode(encode(pixels, kind, **options), max_pixels=LIMIT)
    assert (found[:, :32] == 255).all()
    np.testing.assert_array_equal(found[:, 32:], pixels[:, 32:, :3])


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "PNG", "JPEG2000"])
def test_sixteen_bits(kind):
    values = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    found = decode(encode(values, kind, **options), max_pixels=LIMIT)
    expected = np.repeat(np.rint(values / 257)[..., None], 3, axis=2)
    np.testing.assert_array_equal(found, expected)


def test_bands_are_seams_of_nothing(monkeypatch):
    """Images are converted in bands of rows."""
    rgba, grey = noise(50, 40, 4), noise(50, 40, 1)[..., 0]
    deep = grey.astype(np.uint16) * 257
    files = [
        encode(rgba, "PNG"),
        encode(grey, "PNG", transparency=7),
        encode(deep, "PNG", transparency=2570),
        encode(Image.fromarray(grey).quantize(16), "PNG", transparency=3),
        encode((deep / 65535).astype(np.float32), "TIFF"),
        encode(Image.fromarray(rgba[..., :3]).convert("CMYK"), "TIFF"),
        encode(Image.fromarray(grey > 100), "TIFF"),
    ]
    whole = [decode(data, max_pixels=LIMIT) for data in files]
    monkeypatch.setattr("train.data.images.decode._BAND", 100)  # two rows
    for data, expected in zip(files, whole, strict=True):
        np.testing.assert_array_equal(decode(data, max_pixels=LIMIT), expected)


def test_a_float_image_has_one_range_in_all_bands(monkeypatch):
    """Only its last rows show that white is 255, not 1."""
    monkeypatch.setattr("train.data.images.decode._BAND", 8)
    values = np.full((40, 8), 0.8, np.float32)
    values[-1] = 255
    found = decode(encode(values, "TIFF"), max_pixels=LIMIT)
    assert (found[:-1] == 1).all() and (found[-1] == 255).all()
    values[20] = np.nan
    with pytest.raises(BadImage, match="mode F outside"):
        decode(encode(values, "TIFF"), max_pixels=LIMIT)


@pytest.mark.parametrize("kind", ["ICO", "ICNS"])
def test_the_largest_image_of_an_icon(kind):
    pixels = smooth(256, 256)
    options = {"sizes": [(16, 16), (256, 256), (32, 32)]} if kind == "ICO" else {}
    found = decode(encode(pixels, kind, **options), max_pixels=LIMIT)
    assert found.shape[0] >= 256
    assert difference(found[:: found.shape[0] // 256, :: found.shape[0] // 256], pixels) < 3


def test_damaged_icons_are_bad_images():
    for kind in ("ICO", "ICNS"):
        data = np.frombuffer(encode(smooth(128, 128), kind), np.uint8)
        generator, read = np.random.default_rng(0), 0
        for _ in range(60):
            damaged = data.copy()
            damaged[generator.integers(0, 60, 3)] = generator.integers(0, 256, 3)
            for cut in (len(data), 30, 500):
                with contextlib.suppress(BadImage):
                    assert decode(damaged[:cut].tobytes(), max_pixels=LIMIT).shape[2] == 3
                    read += 1
        assert 10 < read < 3 * 60 - 50, (kind, read)


def box(brand: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return (len(body) + 4).to_bytes(4, "big") + body + bytes(100)


@pytest.mark.parametrize(
    "data, message",
    [
        (box(b"heic", b"mif1"), r"HEIC is not read; convert it to JPEG, e\.g\. by `heif-convert"),
        (box(b"mif1", b"heic"), "HEIC is not read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS is a program for Ghostscript.*convert it to PNG"),
        (b"%PDF-1.7\n", "PDF is not read; convert it to PNG or JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not read"),
        (b"\xff\x0a" + bytes(50), "JPEG XL is not read"),
        (bytes(50), "not an image: starts with"),
    ],
    ids=lambda x: x[:12] if isinstance(x, bytes) else "",
)
def test_what_is_not_read_is_named(data, message):
    with pytest.raises(BadImage, match=message):
        decode(data, max_pixels=LIMIT)


def test_formats_that_hide_an_image_are_not_read():
    """A BLP file contains a JPEG whose size is not in the header of the BLP."""
    with pytest.raises(BadImage, match="not an image: starts with 'BLP2"):
        decode(b"BLP2" + bytes(200), max_pixels=LIMIT)
