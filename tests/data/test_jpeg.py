"""train/data/images/jpeg.py: only the rows of a crop are decoded, bit-identical to the whole."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from train.config import AugmentConfig
from train.data.images import crops, jpeg, turbojpeg
from train.data.images.decode import BadImage, decode
from train.data.images.draws import sample_crop

END = b"\xff\xd9"


def photo(height: int, width: int, **options) -> bytes:
    """A JPEG of edges and noise, in which all rows differ."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
    pixels = np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width].astype(int)
    pixels = np.clip(pixels + rng.integers(-20, 20, pixels.shape), 0, 255).astype(np.uint8)
    picture, file = Image.fromarray(pixels), io.BytesIO()
    picture.convert(options.pop("mode", "RGB")).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def header_of(data: bytes) -> jpeg.Header:
    found = jpeg.read_header(data)
    assert found is not None
    return found


def whole(data: bytes, factor: int) -> np.ndarray:
    height, width = header_of(data).size(factor)
    return simplejpeg.decode_jpeg(data, "RGB", False, False, height, width)


SHORT = [{}, {"subsampling": 0}, {"subsampling": 1}, {"mode": "L"}, {"keep_rgb": True}]


@pytest.mark.parametrize("options", SHORT, ids=str)
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_the_upper_rows_are_those_of_the_whole_image(factor, options):
    data = photo(203, 150, **options)
    header, expected = header_of(data), whole(data, factor)
    assert expected.shape[:2] == header.size(factor)
    for rows in range(1, len(expected) + 1):
        found = jpeg.decode(data, header, factor, rows)
        assert rows <= len(found) <= min(rows + 2, len(expected))
        np.testing.assert_array_equal(found[:rows], expected[:rows])


needs_library = pytest.mark.skipif(
    turbojpeg.library() is None, reason="no TurboJPEG 3 here: pip install turbojpeg"
)


@needs_library
@pytest.mark.parametrize("options", [*SHORT, {"subsampling": 2, "progressive": True}], ids=str)
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_region_is_as_in_the_whole_image(factor, options):
    data = photo(203, 150, **options)
    header, expected = header_of(data), whole(data, factor)
    size, rng = header.size(factor), np.random.default_rng(factor)
    boxes = [(0, 0, *size), (0, 0, 1, 1), (size[0] - 1, size[1] - 1, 1, 1)]
    for _ in range(200):
        (top, bottom), (left, right) = (sorted(rng.choice(side + 1, 2, False)) for side in size)
        boxes.append((int(top), int(left), int(bottom - top), int(right - left)))
    for top, left, height, width in boxes:
        found = turbojpeg.decode(data, factor, size, (top, left, height, width))
        assert found is not None
        there = expected[top : top + height, left : left + width]
        np.testing.assert_array_equal(found, there)


@needs_library
def test_a_region_behind_damage_is_left_to_the_other_way():
    """The error has the reason, and the next file is decoded correctly."""
    data = photo(200, 150)
    ended = data[: len(data) // 2] + END
    size = header_of(ended).size(1)
    assert turbojpeg.decode(ended, 1, size, (190, 0, 10, 10)) is None
    assert turbojpeg.decode(b"\xff\xd8\xff", 1, size, (0, 0, 10, 10)) is None
    with pytest.raises(jpeg.Damaged):
        jpeg.decode_crop(ended, header_of(ended), 1, (190, 0, 10, 10))
    found = jpeg.decode_crop(data, header_of(data), 1, (190, 7, 10, 10))
    np.testing.assert_array_equal(found, whole(data, 1)[190:, 7:17])


WHOLE = {
    "progressive": photo(203, 150, progressive=True),
    "restarts": photo(203, 150, restart_marker_rows=1),
    "junk after the end": photo(203, 150) + b"junk",
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=list(WHOLE))
def test_where_no_rows_can_be_left_off_all_come(data):
    assert header_of(data).height_at is None
    np.testing.assert_array_equal(jpeg.decode(data, header_of(data), 1, 10), whole(data, 1))


def in_three_scans() -> bytes:
    """A sequential JPEG of one scan whose header declares one scan per colour."""
    data = photo(64, 64)
    at = data.index(b"\xff\xda") + 4
    assert data[at] == 3
    return data[:at] + b"\x01" + data[at + 1 :]


def test_a_scan_for_each_colour_is_not_shortened():
    assert header_of(photo(64, 64)).height_at is not None
    assert jpeg._walk(in_three_scans()) == (False, None, 6)  # all coefficients are kept


def test_header_of_padding_and_cut_headers():
    data = photo(64, 64)
    start = data.index(b"\xff\xc0")
    assert header_of(data).height_at == start + 5
    padded = data[:start] + b"\xff" + data[start:]
    assert header_of(padded)[3:5] == (True, None)  # legal and odd: Pillow looks for Exif in it
    np.testing.assert_array_equal(jpeg.decode(padded, header_of(padded), 1, 5), whole(data, 1))
    for kept in range(start):
        assert jpeg.read_header(data[:kept]) is None


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_file_cut_short_is_found_whatever_is_asked_for(kept):
    data = photo(200, 150)
    cut = data[: int(kept * len(data))]
    with pytest.raises(jpeg.Unusual, match="Premature end"):  # and Pillow says the same
        jpeg.decode(cut, header_of(cut), 1, 10)
    with pytest.raises(BadImage):
        decode(cut, max_pixels=10**6)
    ended = cut + END  # hides the missing rows from readers that do not need them
    expected = whole(data, 1)
    found = jpeg.decode(ended, header_of(ended), 1, 20)
    np.testing.assert_array_equal(found[:20], expected[:20])
    with pytest.raises(jpeg.Damaged, match="premature end"):
        jpeg.decode(ended, header_of(ended), 1, 190)


def test_random_damage_is_a_bad_image_or_a_crop():
    data = np.frombuffer(photo(64, 48), np.uint8)
    generator, sizes = np.random.default_rng(1), set()
    for seed in range(150):
        damaged = data.copy()
        damaged[generator.integers(0, len(data), 3)] = generator.integers(0, 256, 3)
        rng = np.random.default_rng(seed)
        try:
            args = damaged.tobytes(), 24, AugmentConfig(), rng
            sizes.add(crops.random_crop(*args, max_pixels=10**5).shape[2])
        except BadImage:
            sizes.add(0)
    assert sizes == {0, 3}


@pytest.mark.parametrize("with_library", [True, False])
def test_a_crop_needs_no_rows_below_it(monkeypatch, with_library):
    """The upper half is read if the lower half is missing, which an end marker hides."""
    if not with_library:
        monkeypatch.setattr(turbojpeg, "decode", lambda *args: None)
    data = photo(400, 300)
    ended = data[: len(data) // 2] + END
    augment, above, below = AugmentConfig(area=(0.1, 0.3)), 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        top, left, height, width = sample_crop(400, 300, augment, rng)

        def crop(seed: int = seed) -> np.ndarray:
            rng = np.random.default_rng(seed)
            return crops.random_crop(ended, 200, augment, rng, max_pixels=10**6)

        if top + height <= 190:
            expected = whole(data, 1)[top : top + height, left : left + width]
            np.testing.assert_array_equal(crop(), expected)
            above += 1
        elif top + height > 210:
            with pytest.raises(BadImage):
                crop()
            below += 1
    assert above >= 5 and below >= 25
