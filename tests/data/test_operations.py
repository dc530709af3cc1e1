"""train/data/images/operations.py: the pixels of torchvision and timm, and formulas."""

import json
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from PIL.Image import Resampling

from tests.parity.augment_goldens import AFFINE, FILL, JSON, NPZ, picture
from train.config import AugmentConfig
from train.data.images.crops import padded
from train.data.images.operations import (
    GEOMETRIC,
    OPERATIONS,
    Affine,
    Mixture,
    Operation,
    apply,
)
from train.data.images.policies import rand_value
from train.data.images.policy_tables import RAND_NAMES

NAMES = {
    **{"Identity": "identity", "ShearX": "shear_x", "ShearY": "shear_y", "Rotate": "rotate"},
    **{"TranslateX": "translate_x", "TranslateY": "translate_y", "Brightness": "brightness"},
    **{"Color": "saturation", "Contrast": "contrast", "Sharpness": "sharpness"},
    **{"Posterize": "posterize", "Solarize": "solarize", "AutoContrast": "autocontrast"},
    **{"Equalize": "equalize", "Invert": "invert", "SolarizeAdd": "solarize_add"},
    **{"TranslateXRel": "translate_x", "TranslateYRel": "translate_y"},
}
"""torchvision's and timm's names -> ours."""

_FILE = np.load(NPZ)
PIXELS = dict(zip(_FILE["keys"].tolist(), _FILE["pixels"], strict=True))
TABLES = json.loads(JSON.read_text())
SAME = TABLES["versions"]["PIL.Image"].split(".")[0] == PIL.__version__.split(".")[0]


def close(found: np.ndarray, expected: np.ndarray, mean: float = 0.0) -> bool:
    """Whether pixels are equal, or differ by `mean` on average. Other versions of Pillow may round
    in another way."""
    return bool(np.abs(found.astype(int) - expected).mean() <= (mean if SAME else 1.0))


def torchvision_operation(name: str, value: float) -> Operation:
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return Operation(NAMES[name], 1 + value)
    if name in ("TranslateX", "TranslateY", "Posterize"):
        return Operation(NAMES[name], int(value))
    return Operation(NAMES[name], value)


WIDE = [key for key in PIXELS if key.startswith("torchvision/") and key.count("/") == 3]


@pytest.mark.parametrize("key", WIDE)
def test_operations_are_torchvisions(key):
    _, name, k, sign = key.split("/")
    value = 0.0 if name == "Invert" else TABLES["wide"][name][0][int(k)]
    operation = torchvision_operation(name, int(sign) * value)
    assert close(apply(picture(), [operation], FILL), PIXELS[key])


@pytest.mark.parametrize("key", [key for key in PIXELS if key.startswith("timm/")])
def test_operations_and_levels_are_timms(key):
    """A level becomes a value as in timm, and the value changes the pixels as in timm."""
    _, name, level, sign = key.split("/")
    increasing = "Increasing" in name
    ours = NAMES[name.removesuffix("Increasing")]
    if ours.startswith("translate"):  # timm moves to the other side; the sign is random
        sign = -int(sign)
    fixed = SimpleNamespace(random=lambda: 0.2 if int(sign) > 0 else 0.8)
    value = rand_value(ours, int(level) / 10, increasing, fixed, len(picture()))
    operation = Operation(ours, value, Resampling.BICUBIC)
    assert close(apply(picture(), [operation], FILL), PIXELS[key])


def test_all_of_timms_operations_are_there():
    kept = {key.split("/")[1] for key in PIXELS if key.startswith("timm/")}
    assert kept == {*TABLES["rand"], *TABLES["rand increasing"]}
    for key in ("rand", "rand increasing"):
        names = [NAMES[name.removesuffix("Increasing")] for name in TABLES[key]]
        assert sorted(names) == sorted(RAND_NAMES)


def test_other_operations_are_torchvisions():
    image = picture()
    turned = apply(image, [Operation("rotate", 20.0, Resampling.BICUBIC)], FILL)
    assert close(turned, PIXELS["torchvision/Rotate/bicubic"])
    for turns in (-0.5, -0.1, 0.25):
        found = apply(image, [Operation("hue", turns)])
        assert close(found, PIXELS[f"torchvision/hue/{turns}"])
    assert close(apply(image, [Operation("grey")]), PIXELS["torchvision/grey"])
    for name, (angle, shift, scale, shear) in AFFINE.items():
        found = apply(image, [Operation("affine", Affine(angle, shift, scale, shear))], FILL)
        assert close(found, PIXELS[f"torchvision/affine/{name}"])
    for sigma in (0.5, 2.0):  # torchvision's is a convolution of float32
        found = apply(image, [Operation("blur", sigma)])
        assert close(found, PIXELS[f"torchvision/blur/{sigma}"], mean=0.1)
    reflected = padded(image, AugmentConfig(crop="pad", pad=4, pad_mode="reflect"))
    np.testing.assert_array_equal(reflected, _FILE["reflect"])


def test_lighting_is_the_formula():
    alpha = (0.3, -0.2, 0.5)
    image = picture()
    # fb.resnet.torch: the sum over components of alpha * eigenvalue * eigenvector, in 0..1
    values, vectors = (
        (0.2175, 0.0188, 0.0045),
        (
            (-0.5675, 0.7192, 0.4009),
            (-0.5808, -0.0045, -0.8140),
            (-0.5836, -0.6948, 0.4203),
        ),
    )
    added = [
        sum(a * v * row[k] for k, (a, v) in enumerate(zip(alpha, values, strict=True)))
        for row in vectors
    ]
    expected = np.clip(np.rint(image + 255 * np.array(added)), 0, 255)
    assert max(abs(np.array(added))) > 0.03
    np.testing.assert_array_equal(apply(image, [Operation("lighting", alpha)]), expected)


def test_augmix_is_the_formula():
    image = picture()
    chains = ((Operation("invert"),), (Operation("posterize", 1), Operation("rotate", 30.0)), ())
    found = apply(image, [Operation("augmix", Mixture(0.7, (0.5, 0.2, 0.3), chains))], FILL)
    parts = [apply(image, chain, FILL).astype(float) for chain in chains]
    mixed = 0.3 * image + 0.7 * (0.5 * parts[0] + 0.2 * parts[1] + 0.3 * parts[2])
    assert np.abs(found - mixed).max() <= 0.51


def test_posterize_keeps_upper_bits():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for bits in range(9):
        expected = values & (256 - 2 ** (8 - bits))
        np.testing.assert_array_equal(apply(values, [Operation("posterize", bits)]), expected)


VALUES = {
    **dict.fromkeys(("brightness", "saturation", "contrast", "sharpness"), 1.5),
    **{"hue": 0.2, "posterize": 2, "solarize": 99.5, "solarize_add": 50, "blur": 1.0},
    **{"lighting": (0.1, 0.2, 0.3), "affine": Affine(10.0, (1, 2), 0.9, 5.0)},
    **dict.fromkeys(("shear_x", "shear_y"), 0.2),
    **dict.fromkeys(("translate_x", "translate_y", "rotate"), 3),
}
COLOURS = ("identity", "hue", "saturation", "grey", "lighting")


@pytest.mark.parametrize("name", [*OPERATIONS, *GEOMETRIC])
def test_images_with_one_channel(name):
    """They keep their shape; operations on colours change nothing."""
    image = picture()[..., :1]
    before = image.copy()
    found = apply(image, [Operation(name, VALUES.get(name))], (7,))
    assert found.shape == image.shape and found.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    assert (name in COLOURS) == bool((found == image).all())
