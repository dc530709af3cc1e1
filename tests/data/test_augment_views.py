"""Augmented views: what a view depends on, where it is computed, filters, and scale jitter."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.data.test_dali import batches as dali_batches
from tests.data.test_dali import smooth as smooth_jpeg
from tests.data.test_images import LIMIT, difference, rng, smooth
from tests.data.test_on_device import assert_same_batches, decided
from tests.data.test_pipeline import DATA, N, batches, noise
from tests.data.test_pipeline_augment import views
from train.config import AugmentConfig, ConfigError, DataConfig
from train.data.images import dali
from train.data.images.crops import train_image
from train.data.images.decode import decode
from train.data.images.draws import draw_operations, sample_box
from train.data.images.operations import apply
from train.data.images.resize import resize_crop
from train.data.on_device import why_on_host
from train.data.philox import generator
from train.data.pipeline import check_decoder

EVERYTHING = AugmentConfig(
    crop="pad",
    pad=1,
    pad_mode="reflect",
    interpolation="random",
    vertical_flip=True,
    rotate=20.0,
    translate=0.2,
    zoom=(0.8, 1.2),
    policy="rand-m7-mstd0.5-inc1",
    fill=(3, 5, 7),
    jitter=(0.4, 0.4, 0.4, 0.1),
    grey=0.2,
    blur=0.5,
    lighting=0.1,
)


@pytest.mark.parametrize(
    "augment",
    [EVERYTHING, replace(EVERYTHING, policy="augmix"), replace(EVERYTHING, policy="ta_wide")],
    ids=["rand", "augmix", "ta_wide"],
)
def test_views_are_a_function_of_seed_epoch_and_index(augment):
    source = noise(size=8)
    one = views(source, 4, [0, 1], seed=3, augment=augment)
    assert views(source, 10, [1], seed=3, augment=augment).items() < one.items()
    threads = {"augment": augment, "data": replace(DATA, threads=3)}
    assert views(source, 4, [0, 1], seed=3, **threads) == one
    assert len(set(one.values())) == 2 * N
    assert views(source, 4, [0, 1], seed=4, augment=augment) != one


def test_processes_of_workers_draw_the_same():
    options = {"augment": EVERYTHING, "seed": 1}
    alone = batches(noise(), 6, 0, 3, **options)
    workers = batches(noise(), 6, 0, 3, data=replace(DATA, workers=1), **options)
    for a, b in zip(alone, workers, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


def test_a_view_is_the_crop_then_flips_then_operations():
    pixels, flips = smooth(40, 40), set()
    augment = AugmentConfig(policy="ta_wide", vertical_flip=True, fill=(9,))
    for seed in range(12):
        draw = rng(seed)
        top, left, height, width = sample_box(40, 40, 16, augment, draw)
        expected = resize_crop(pixels[top : top + height, left : left + width], 16)
        across, down = draw.random() < 0.5, draw.random() < 0.5
        flips.add((across, down))
        expected = expected[:: -1 if down else 1, :: -1 if across else 1]
        expected = apply(np.ascontiguousarray(expected), draw_operations(augment, 16, draw), (9,))
        found = train_image(pixels, 16, augment, rng(seed), max_pixels=LIMIT)
        np.testing.assert_array_equal(found, expected)
    assert len(flips) == 4


def test_options_that_are_off_do_not_change_the_crop():
    """The crop is drawn first: with and without other options it is the same."""
    plain = AugmentConfig(flip=False)
    inverted = replace(plain, fill=(1,), blur_sigma=(1.0, 2.0))
    for seed in range(5):
        args = (smooth(40, 50), 16)
        one = train_image(*args, plain, rng(seed), max_pixels=LIMIT)
        other = train_image(*args, inverted, rng(seed), max_pixels=LIMIT)
        np.testing.assert_array_equal(one, other)
        lit = train_image(*args, replace(plain, lighting=1e-9), rng(seed), max_pixels=LIMIT)
        np.testing.assert_array_equal(one, lit)


# --- filters and scale jitter --------------------------------------------------------------------


def test_bicubic_crops_are_pillows():
    pixels = smooth(50, 60)
    augment = AugmentConfig(flip=False, interpolation="bicubic")
    for seed in range(4):
        top, left, height, width = sample_box(50, 60, 24, augment, rng(seed))
        crop = Image.fromarray(pixels[top : top + height, left : left + width])
        expected = np.asarray(crop.resize((24, 24), Image.Resampling.BICUBIC))
        found = train_image(pixels, 24, augment, rng(seed), max_pixels=LIMIT)
        np.testing.assert_array_equal(found, expected)


def test_random_filters_are_both_drawn():
    pixels = noise(1, size=11).images[0]
    augment = AugmentConfig(crop="none", flip=False, interpolation="random")
    seen = {train_image(pixels, 7, augment, rng(k), max_pixels=LIMIT).tobytes() for k in range(20)}
    fixed = {
        train_image(
            pixels, 7, replace(augment, interpolation=name), rng(), max_pixels=LIMIT
        ).tobytes()
        for name in ("bilinear", "bicubic")
    }
    assert seen == fixed and len(fixed) == 2


@pytest.mark.parametrize("encoded", [False, True])
def test_scale_jitter_is_a_resize_and_a_crop(encoded):
    """The crop is a part of the image that Pillow (and torchvision's Resize) made smaller."""
    image = smooth_jpeg(300, 420) if encoded else smooth(300, 420)
    pixels = decode(image, max_pixels=LIMIT) if encoded else image
    augment = AugmentConfig(scale=(70, 120), flip=False)
    for seed in range(6):
        found = train_image(image, 64, augment, rng(seed), max_pixels=LIMIT)
        short = int(rng(seed).integers(70, 121))
        top, left, side, _ = sample_box(300, 420, 64, augment, rng(seed))
        assert abs(side - 64 * 300 / short) <= 0.5
        scale = 300 / short  # of the image to the one whose short side is `short`
        part = (left, top, left + 64 * scale, top + 64 * scale)
        method = Image.Resampling.BILINEAR
        expected = Image.fromarray(pixels).resize((64, 64), method, box=part)
        # A JPEG is decoded at half its size, where the crop is rounded again: by at most one pixel
        # of the image, in which its waves change by up to 5.
        assert difference(found, np.asarray(expected)) < (3 if encoded else 1)


# --- where it runs -------------------------------------------------------------------------------


RESIDENT = AugmentConfig(crop="pad", pad=2, pad_mode="reflect", flip=True, vertical_flip=True)
ON_DEVICES = {
    "both flips": RESIDENT,
    "one flip": replace(RESIDENT, flip=False),
    "no crop": replace(RESIDENT, crop="none", flip=False),
    "repeats": replace(RESIDENT, repeats=3),
}


@pytest.mark.parametrize("augment", ON_DEVICES.values(), ids=ON_DEVICES)
def test_flips_and_padding_stay_on_the_devices(augment, devices):
    source = noise(21, size=5)
    data = replace(DATA, image_size=5)
    assert_same_batches(source, 6, 2, 11, devices[:1], data=data, augment=augment, seed=5)
    bicubic = replace(augment, interpolation="bicubic")
    data = replace(DATA, image_size=4)
    assert_same_batches(source, 6, 0, 3, devices[:1], data=data, augment=bicubic)
    assert decided(augment=augment) and decided(augment=bicubic)


@pytest.mark.parametrize(
    "option, message",
    [
        ({"policy": "ta_wide"}, "augment.policy ta_wide is done on the host"),
        ({"jitter": (0.4, 0.0, 0.0, 0.0)}, "augment.jitter 0.4 0.0 0.0 0.0 is done on the host"),
        ({"scale": (9, 12)}, "augment.scale 9 12 is done on the host"),
        ({"interpolation": "random"}, "augment.interpolation random is done on the host"),
        ({"zoom": (0.5, 1.0)}, "augment.zoom 0.5 1.0 is done on the host"),
    ],
    ids=str,
)
def test_other_options_run_on_the_host_and_are_named(option, message):
    augment = AugmentConfig(crop="pad", pad=1, **option)
    assert not decided(augment=augment)
    with pytest.raises(ConfigError, match=f"data.resident 'on': {message}"):
        decided(augment=augment, resident="on")
    if "scale" not in option:
        assert decided(augment=augment, decide=why_on_host) == message
    assert decided(decide=why_on_host) == ""
    assert decided(augment=augment, decide=why_on_host, platform="cpu") == ""


class HostPipeline:
    """A DALI pipeline that runs here: it decodes, crops, resizes and flips."""

    def feed_input(self, name, values):
        setattr(self, name, values)

    def run(self):
        return (self,)

    def as_cpu(self):
        return self

    def as_tensor(self):
        columns = (self.data, self.begin, self.extent, self.mirrored, self.upside_down)
        found = []
        for data, (top, left), (height, width), across, down in zip(*columns, strict=True):
            pixels = decode(data.tobytes(), max_pixels=LIMIT)
            view = resize_crop(pixels[top : top + height, left : left + width], 64)
            found.append(view[:: -1 if down else 1, :: -1 if across else 1])
        return np.stack(found)


@pytest.mark.parametrize(
    "augment",
    [
        AugmentConfig(area=(0.5, 1.0), vertical_flip=True, policy="ta_wide", lighting=0.1),
        AugmentConfig(scale=(64, 90), policy="rand-p1", fill=(128,)),
    ],
    ids=["policy", "scale"],
)
def test_dali_decodes_and_the_operations_follow(augment, monkeypatch):
    monkeypatch.setattr(dali, "check", lambda: None)
    monkeypatch.setattr(dali, "_pipeline", lambda *key: HostPipeline())
    monkeypatch.setattr(dali, "_per_thread", type("Local", (), {})())
    files = [smooth_jpeg(200 + 40 * i, 320 - 30 * i) for i in range(6)]
    png = io.BytesIO()
    Image.open(io.BytesIO(files[1])).save(png, "PNG")
    files[1] = png.getvalue()  # not for DALI
    ours, theirs = (dali_batches(files, name, augment) for name in ("cpu", "dali"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        assert np.abs(a["image"].astype(int) - b["image"]).mean() < 4


def test_dali_refuses_other_filters(monkeypatch):
    monkeypatch.setattr(dali, "check", lambda: None)
    with pytest.raises(ConfigError, match=r"augment\.interpolation must be bilinear, not random"):
        check_decoder(DataConfig(decoder="dali"), AugmentConfig(interpolation="random"))


def test_generators_are_those_of_the_example():
    """The same view from the functions that a program of one's own would call."""
    source, data = noise(size=8), replace(DATA, image_size=8)
    augment = AugmentConfig(crop="none", flip=False, policy="ta_wide")
    [batch] = batches(source, 5, 0, 1, data=data, augment=augment, seed=9)
    for index, image in zip(batch["index"], batch["image"], strict=True):
        operations = draw_operations(augment, 8, generator(9, 0, int(index)))
        np.testing.assert_array_equal(apply(source.images[index], operations), image)
