"""train/data/images/decode.py: files of every kind, compared with independently known pixels."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from train.config import AugmentConfig
from train.data.images import jpeg
from train.data.images.crops import train_image
from train.data.images.decode import BadImage, decode, read_jpeg_header

LIMIT = 10_000_000
PHOTOS = Path(os.environ.get("RESNET_JAX_DATA", Path(__file__).parents[3] / "shared" / "data"))


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Low-frequency colours, which JPEG and resizing change little; uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(40, 216, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(picture: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- decode --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_formats_come_back_exactly(kind):
    pixels = noise(13, 17)
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(encode(pixels, kind, **options), max_pixels=LIMIT)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous and decoded.flags.writeable
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}, {"keep_rgb": True}],
    ids=str,
)
def test_jpeg_equals_pillow(options):
    data = encode(smooth(61, 83), "JPEG", quality=90, **options)
    assert read_jpeg_header(data, LIMIT, LIMIT).size(1) == (61, 83)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    decoded = decode(data, max_pixels=LIMIT)
    assert np.abs(decoded.astype(int) - expected).max() <= 1
    assert difference(decoded, smooth(61, 83)) < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_becomes_three_equal_channels(kind):
    grey = smooth(20, 30)[..., 0]
    decoded = decode(encode(grey, kind), max_pixels=LIMIT)
    assert decoded.shape == (20, 30, 3)
    assert np.ptp(decoded, axis=2).max() == 0
    assert difference(decoded[..., 0], grey) < 2


def test_one_bit_and_palette():
    bits = noise(9, 9)[..., :1] > 127
    black_white = Image.fromarray(bits[..., 0]).convert("1")
    expected = np.repeat(bits * np.uint8(255), 3, axis=2)
    np.testing.assert_array_equal(decode(encode(black_white, "PNG"), max_pixels=LIMIT), expected)

    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([1, 0])
    decoded = decode(encode(palette, "PNG"), max_pixels=LIMIT)
    assert decoded.tolist() == [[[200, 100, 50], [10, 20, 30]]]


def ycck_jpeg(ink: tuple[int, int, int, int]) -> bytes:
    """One colour of (C, M, Y, K) ink, stored inverted as YCCK, which Pillow itself cannot write."""
    y, cb, cr = Image.new("RGB", (1, 1), ink[:3]).convert("YCbCr").getpixel((0, 0))
    stored = (255 - y, 255 - cb, 255 - cr, ink[3])  # Pillow inverts what it writes
    data = encode(Image.new("CMYK", (16, 16), stored), "JPEG", quality=100)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    return data[:at] + b"\x02" + data[at + 1 :]  # the transform: YCCK


@pytest.mark.parametrize("ink", [(200, 10, 100, 0), (0, 255, 255, 128), (20, 40, 60, 200)])
@pytest.mark.parametrize("kind", ["JPEG", "YCCK", "TIFF"])
def test_four_inks(kind, ink):
    data = ycck_jpeg(ink) if kind == "YCCK" else encode(Image.new("CMYK", (16, 16), ink), kind)
    expected = [(255 - channel) * (255 - ink[3]) / 255 for channel in ink[:3]]
    np.testing.assert_allclose(decode(data, max_pixels=LIMIT)[8, 8], expected, atol=3)


DEEP = np.array([[0, 128, 129, 257, 1000], [32768, 40000, 65278, 65407, 65535]], np.uint16)
DEEP_AS_8 = np.repeat(np.rint(DEEP / 257).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_grey_is_scaled(mode):
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    data = encode(DEEP.astype(dtype), "TIFF")
    assert Image.open(io.BytesIO(data)).mode == mode
    np.testing.assert_array_equal(decode(data, max_pixels=LIMIT), DEEP_AS_8)


def test_sixteen_bit_png_and_pgm():
    for extension in (".png", ".pgm"):
        data = cv2.imencode(extension, DEEP)[1].tobytes()
        np.testing.assert_array_equal(decode(data, max_pixels=LIMIT), DEEP_AS_8)


def test_sixteen_bit_grey_png_with_a_transparent_value():
    data = encode(DEEP, "PNG", transparency=1000)
    expected = DEEP_AS_8.copy()
    expected[0, 4] = 255
    np.testing.assert_array_equal(decode(data, max_pixels=LIMIT), expected)


def test_sixteen_bit_colour_png():
    deep = rng().integers(0, 65536, (8, 8, 4), dtype=np.uint16)  # OpenCV's order: B, G, R, alpha
    rgb = deep[..., [2, 1, 0]] / 257
    decoded = decode(cv2.imencode(".png", deep[..., :3])[1].tobytes(), max_pixels=LIMIT)
    np.testing.assert_allclose(decoded, rgb, atol=1)
    alpha = deep[..., 3:] / 65535
    decoded = decode(cv2.imencode(".png", deep)[1].tobytes(), max_pixels=LIMIT)
    np.testing.assert_allclose(decoded, rgb * alpha + 255 * (1 - alpha), atol=2.5)


def test_float_grey():
    expected = np.repeat(np.uint8([[0, 51, 255]])[..., None], 3, axis=2)
    for top in (1, 255):
        data = encode(np.float32([[0, 0.2 * top, top]]), "TIFF")
        np.testing.assert_array_equal(decode(data, max_pixels=LIMIT), expected)
    for value in (-1, 256, np.nan):
        with pytest.raises(BadImage, match="mode F outside"):
            decode(encode(np.float32([[0, 2, value]]), "TIFF"), max_pixels=LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_goes_over_white(kind):
    rgba = noise(8, 8, 4)
    rgba[0, :, 3] = 0
    rgba[1, :, 3] = 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    decoded = decode(encode(rgba, kind, **options), max_pixels=LIMIT)
    alpha = rgba[..., 3:] / 255
    np.testing.assert_allclose(decoded, rgba[..., :3] * alpha + 255 * (1 - alpha), atol=1.01)
    assert (decoded[0] == 255).all()
    np.testing.assert_array_equal(decoded[1], rgba[1, :, :3])


def test_grey_alpha_and_colour_keys_go_over_white():
    grey_alpha = Image.merge("LA", [Image.new("L", (2, 2), 100), Image.new("L", (2, 2), 51)])
    assert decode(encode(grey_alpha, "PNG"), max_pixels=LIMIT)[0, 0].tolist() == [224] * 3

    keyed = Image.new("RGB", (2, 1), (1, 2, 3))
    keyed.putpixel((1, 0), (9, 8, 7))
    decoded = decode(encode(keyed, "PNG", transparency=(1, 2, 3)), max_pixels=LIMIT)
    assert decoded.tolist() == [[[255, 255, 255], [9, 8, 7]]]

    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0])
    palette.putdata([0, 1, 2])
    decoded = decode(encode(palette, "PNG", transparency=bytes([255, 0, 51])), max_pixels=LIMIT)
    assert decoded.tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    decoded = decode(encode(palette, "GIF", transparency=1), max_pixels=LIMIT)
    assert decoded.tolist() == [[[10, 20, 30], [255, 255, 255], [0, 0, 0]]]


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# Where the stored top-left corner and the corner right of it are shown (Exif 2.32, 4.6.4, "0th row"
# and "0th column"); corners are numbered 0 1 over 2 3.
SHOWN = {1: "0123", 2: "1032", 3: "3210", 4: "2301", 5: "0213", 6: "2031", 7: "3120", 8: "1302"}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(kind, orientation):
    colours = np.uint8([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 250]])
    stored = np.kron(colours.reshape(2, 2, 3), np.ones((16, 24, 1), np.uint8))
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encode(stored, kind, exif=exif(orientation), **options)
    decoded = decode(data, max_pixels=LIMIT)
    assert decoded.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    height, width = decoded.shape[0] // 4, decoded.shape[1] // 4
    corners = decoded[height :: 2 * height, width :: 2 * width].reshape(4, 3)
    expected = colours[[int(corner) for corner in SHOWN[orientation]]]
    np.testing.assert_allclose(corners, expected, atol=8)


def test_min_size_is_meant_upright():
    data = encode(smooth(400, 800), "JPEG", exif=exif(6))
    assert decode(data, max_pixels=LIMIT, min_size=(400, 100)).shape == (400, 200, 3)
    assert decode(data, max_pixels=LIMIT, min_size=(401, 100)).shape == (800, 400, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_image():
    pixels = smooth(16, 16)
    data = encode(pixels, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data, max_pixels=LIMIT).shape == (16, 16, 3)
    assert decode(encode(pixels, "JPEG", exif=exif(77)), max_pixels=LIMIT).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (6, 5), colour) for colour in [(255, 0, 0), (0, 255, 0)]]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    expected = np.full((5, 6, 3), (255, 0, 0), np.uint8)
    np.testing.assert_array_equal(decode(data, max_pixels=LIMIT), expected)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "CMYK"}], ids=str)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.99])
def test_truncated_jpeg(kept, options):
    picture = Image.fromarray(noise(64, 64)).convert(options.pop("mode", "RGB"))
    data = encode(picture, "JPEG", **options)
    with pytest.raises(BadImage):
        decode(data[: int(kept * len(data))], max_pixels=LIMIT)
    with pytest.raises(BadImage):
        train_image(data[: int(kept * len(data))], 16, AugmentConfig(), rng(), max_pixels=LIMIT)


def test_truncated_jpeg_with_an_end_marker():
    """Pillow alone would read this file, with a grey lower half."""
    data = encode(noise(64, 64), "JPEG")
    with pytest.raises(BadImage, match=r"truncated or damaged JPEG: .*premature end"):
        decode(data[: len(data) // 2] + b"\xff\xd9", max_pixels=LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_others(kind, kept):
    data = encode(noise(64, 64), kind)
    with pytest.raises(BadImage):
        decode(data[: int(kept * len(data))], max_pixels=LIMIT)


def test_junk_after_the_end_is_ignored():
    data = encode(smooth(16, 16), "JPEG")
    np.testing.assert_array_equal(
        decode(data + b"junk", max_pixels=LIMIT), decode(data, max_pixels=LIMIT)
    )


def png_of_absurd_size() -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 50000, 8, 2, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + body + png_chunk(b"IEND", b"")


def jpeg_of_absurd_size() -> bytes:
    data = encode(smooth(16, 16), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 50000, 60000) + data[at + 4 :]


@pytest.mark.parametrize("make", [png_of_absurd_size, jpeg_of_absurd_size])
def test_decompression_bomb(make):
    pillows_limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(BadImage, match=r"60000x50000.* 10000000 "):
        decode(make(), max_pixels=LIMIT)
    assert pillows_limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_ours_and_not_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow would raise, and below warn
    for data in (encode(smooth(20, 30), "PNG"), encode(smooth(20, 30), "JPEG", exif=exif(3))):
        assert decode(data, max_pixels=600).shape == (20, 30, 3)
        with pytest.raises(BadImage, match=r"30x20.* 599 "):
            decode(data, max_pixels=599)


def test_what_is_no_image_says_what_it_is():
    with pytest.raises(BadImage, match="not an image: the file is empty"):
        decode(b"", max_pixels=LIMIT)
    for data in (b"<!DOCTYPE html><html>404</html>", b"hello, world", bytes(range(256))):
        with pytest.raises(BadImage, match=r"not an image: starts with ['\"]") as caught:
            decode(data, max_pixels=LIMIT)
        assert repr(data[:16])[1:] in str(caught.value)
    with pytest.raises(BadImage):
        decode(b"\xff\xd8\xff", max_pixels=LIMIT)


def test_postscript_is_not_run():
    with pytest.raises(BadImage, match="Ghostscript"):
        decode(encode(smooth(4, 4), "EPS"), max_pixels=LIMIT)


def test_random_damage_is_a_bad_image_or_an_image():
    generator, read = rng(3), Counter()
    options = {"JPEG": {"exif": exif(6)}, "TIFF": {"compression": "tiff_lzw"}}
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = np.frombuffer(encode(smooth(24, 32), kind, **options.get(kind, {})), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            damaged[generator.integers(0, len(data), 4)] = generator.integers(0, 256, 4)
            with contextlib.suppress(BadImage):
                assert decode(damaged.tobytes(), max_pixels=LIMIT).shape[2] == 3
                read[kind] += 1
    assert len(read) == 6 and max(read.values()) <= 60
    assert 100 < read.total() < 6 * 60 - 100  # the others are bad images


# --- scaled decoding -----------------------------------------------------------------------------


def test_scaled_decoding_is_used_and_is_enough():
    data = encode(smooth(801, 1203), "JPEG")
    shapes = {
        need: decode(data, max_pixels=LIMIT, min_size=(need, need)).shape[:2]
        for need in (1, 101, 102, 201, 202, 401, 402, 5000)
    }
    eighth, quarter, half, full = (101, 151), (201, 301), (401, 602), (801, 1203)
    expected = [eighth, eighth, quarter, quarter, half, half, full, full]
    assert list(shapes.values()) == expected


def test_the_crop_does_not_depend_on_scaled_decoding(monkeypatch):
    data = encode(smooth(960, 1280), "JPEG", quality=95)
    augment = AugmentConfig(crop="random_resized", area=(0.25, 1.0), flip=False)
    sizes = []
    decode_jpeg = jpeg.decode_crop

    def spy(data, header, factor, box):
        sizes.append(header.size(factor)[0])
        return decode_jpeg(data, header, factor, box)

    monkeypatch.setattr(jpeg, "decode_crop", spy)
    full = decode(data, max_pixels=LIMIT)
    sizes.clear()
    for seed in range(20):
        fast = train_image(data, 64, augment, rng(seed), max_pixels=LIMIT)
        slow = train_image(full, 64, augment, rng(seed), max_pixels=LIMIT)
        assert difference(fast, slow) < 1.5
    assert len(sizes) == 20 and max(sizes) <= 240 and min(sizes) == 120


def test_importing_it_imports_neither_jax_nor_grain():
    code = "import sys, train.data.images.crops\n"
    code += "assert not {'jax', 'grain', 'tyro'} & set(sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=root)
