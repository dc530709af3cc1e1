"""Operations on the pixels of a view: Pillow's, as torchvision and timm use them.

An `Operation` is a name and a value that was drawn before (`train/data/images/draws.py`,
`policies.py`). `apply` runs a sequence of them. Nothing here is random.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from PIL.Image import Resampling, Transform

Fill = int | tuple[int, ...]
"""The colour of pixels from outside of the image: as many values as the image has channels."""

# fb.resnet.torch, datasets/imagenet.lua, after Krizhevsky 2012: of RGB in 0..1
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


class Operation(NamedTuple):
    """One operation with its value."""

    name: str
    """A key of `OPERATIONS`, of `GEOMETRIC`, or "augmix"."""
    value: Any = None
    resample: Resampling = Resampling.BILINEAR
    """The filter of a geometric operation."""


class Mixture(NamedTuple):
    """The value of the operation "augmix" (Hendrycks 2020, arXiv:1912.02781, algorithm 1)."""

    share: float
    """The weight of the chains together; the image has the weight 1 - share."""
    weights: tuple[float, ...]
    """Of each chain; their sum is 1."""
    chains: tuple[tuple[Operation, ...], ...]


def apply(
    pixels: np.ndarray, operations: Sequence[Operation], fill: tuple[int, ...] = (0,)
) -> np.ndarray:
    """Applies operations in order.

    Args:
      pixels: uint8 [H, W, C] with C = 1 or 3; it is not modified.
      fill: colour of pixels from outside of the image, one value or C values.

    Returns:
      uint8 [H, W, C].

    Examples:
      >>> grey = np.full((2, 2, 3), 100, np.uint8)
      >>> apply(grey, [Operation("brightness", 1.5), Operation("invert")])[0, 0].tolist()
      [105, 105, 105]
      >>> apply(grey, [Operation("translate_x", 1)], fill=(7,))[0].tolist()
      [[7, 7, 7], [100, 100, 100]]
    """
    if not operations:
        return pixels
    channels = pixels.shape[2]
    colour: Fill = fill[0] if channels == 1 else tuple(fill * (channels // len(fill)))
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    for operation in operations:
        image = _apply_one(image, operation, colour)
    return np.asarray(image).reshape(pixels.shape)


def _apply_one(image: Image.Image, operation: Operation, fill: Fill) -> Image.Image:
    name, value, resample = operation
    if name in GEOMETRIC:
        return GEOMETRIC[name](image, value, resample, fill)
    if name == "augmix":
        return augmix(image, value, fill)
    return OPERATIONS[name](image, value)


# --- colours -------------------------------------------------------------------------------------


def _enhance(kind: Any) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, factor: kind(image).enhance(factor)


def hue(image: Image.Image, turns: float) -> Image.Image:
    """Shifts the hue by a part of a turn, in steps of 1/256, as torchvision's `adjust_hue`."""
    if image.mode != "RGB":
        return image
    hues, saturation, value = image.convert("HSV").split()
    shift = int(turns * 255)
    hues = hues.point([(i + shift) % 256 for i in range(256)])
    return Image.merge("HSV", (hues, saturation, value)).convert("RGB")


def grey(image: Image.Image) -> Image.Image:
    """The luma of ITU-R 601-2 in all channels."""
    luma = image.convert("L")
    return luma if image.mode == "L" else Image.merge("RGB", (luma, luma, luma))


def lighting(image: Image.Image, alpha: tuple[float, float, float]) -> Image.Image:
    """Adds the principal components of ImageNet's colours, weighted by alpha.

    The sum is rounded and clipped to 0..255; the paper adds it to real numbers. An image with one
    channel is returned as it is.
    """
    if image.mode != "RGB":
        return image
    added = 255 * _EIGENVECTORS @ (_EIGENVALUES * alpha)
    table = np.rint(np.arange(256) + added[:, None]).clip(0, 255).astype(int)
    return image.point(table.ravel().tolist())


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keeps the upper bits of each value; with 0 bits, which Pillow refuses, all values are 0."""
    if bits == 0:
        return image.point([0] * 256 * len(image.getbands()))
    return ImageOps.posterize(image, bits) if bits < 8 else image


def solarize_add(image: Image.Image, added: int) -> Image.Image:
    """Adds to the values below 128 (timm)."""
    table = [min(255, i + added) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


def blur(image: Image.Image, sigma: float) -> Image.Image:
    """A Gaussian blur with a kernel of a tenth of the side, at least 3; mirrored at the edge.

    OpenCV's; torchvision's `gaussian_blur` with the same kernel differs by rounding only.
    """
    side = max(max(image.size) // 10 | 1, 3)
    pixels = cv2.GaussianBlur(np.asarray(image), (side, side), sigma)
    return Image.fromarray(pixels)


OPERATIONS: dict[str, Callable[[Image.Image, Any], Image.Image]] = {
    "identity": lambda image, _: image,
    "brightness": _enhance(ImageEnhance.Brightness),
    "saturation": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "hue": hue,
    "posterize": posterize,
    "solarize": ImageOps.solarize,
    "solarize_add": solarize_add,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "grey": lambda image, _: grey(image),
    "blur": blur,
    "lighting": lighting,
}
"""Operations on colours, and their values: factors of `brightness`, `saturation`, `contrast` and
`sharpness` (1 changes nothing), turns of `hue`, bits that `posterize` keeps, the threshold of
`solarize`, the value that `solarize_add` adds, sigma of `blur` in pixels, alpha of `lighting`."""


# --- geometry ------------------------------------------------------------------------------------


class Affine(NamedTuple):
    """The value of the operation "affine", as in torchvision's `affine`."""

    angle: float
    """Clockwise, in degrees."""
    translate: tuple[float, float]
    """To the right and down, in pixels."""
    zoom: float
    shear: float
    """Along the rows, in degrees."""


def affine(image: Image.Image, value: Affine, resample: Resampling, fill: Fill) -> Image.Image:
    """Shears, rotates and zooms around the centre, then translates."""
    angle, shear = math.radians(value.angle), math.radians(value.shear)
    sin, cos, tan = math.sin(angle), math.cos(angle), math.tan(shear)
    # The map of Pillow goes from the result to the image: the inverse of a matrix of determinant 1.
    a, b = (-sin * tan + cos) / value.zoom, (cos * tan + sin) / value.zoom
    c, d = -sin / value.zoom, cos / value.zoom
    x, y = image.width / 2, image.height / 2
    right, down = x + value.translate[0], y + value.translate[1]
    matrix = (a, b, x - a * right - b * down, c, d, y - c * right - d * down)
    return _transform(image, matrix, resample, fill)


def _transform(
    image: Image.Image, matrix: tuple[float, ...], resample: Resampling, fill: Fill
) -> Image.Image:
    """The pixel (x, y) of the result is (a x + b y + c, d x + e y + f) of the image."""
    return image.transform(image.size, Transform.AFFINE, matrix, resample, fillcolor=fill)


def _rotate(image: Image.Image, degrees: float, resample: Resampling, fill: Fill) -> Image.Image:
    return image.rotate(degrees, resample, fillcolor=fill)


def _by_matrix(
    matrix: Callable[[float], tuple[float, ...]],
) -> Callable[[Image.Image, float, Resampling, Fill], Image.Image]:
    return lambda image, value, resample, fill: _transform(image, matrix(value), resample, fill)


GEOMETRIC: dict[str, Callable[[Image.Image, Any, Resampling, Fill], Image.Image]] = {
    "shear_x": _by_matrix(lambda share: (1, share, 0, 0, 1, 0)),
    "shear_y": _by_matrix(lambda share: (1, 0, 0, share, 1, 0)),
    "translate_x": _by_matrix(lambda pixels: (1, 0, -pixels, 0, 1, 0)),
    "translate_y": _by_matrix(lambda pixels: (1, 0, 0, 0, 1, -pixels)),
    "rotate": _rotate,
    "affine": affine,
}
"""Operations with a filter and a fill, and their values: `shear_x` and `shear_y` in pixels a pixel
from the upper left corner, `translate_x` and `translate_y` in pixels to the right and down,
`rotate` in degrees counter-clockwise, `affine` an `Affine`."""


# --- AugMix --------------------------------------------------------------------------------------


def augmix(image: Image.Image, value: Mixture, fill: Fill) -> Image.Image:
    """Mixes an image with several augmented copies of it."""
    mixed = (1 - value.share) * np.asarray(image, np.float32)
    for weight, chain in zip(value.weights, value.chains, strict=True):
        one = functools.partial(_apply_one, fill=fill)
        augmented = functools.reduce(one, chain, image)
        mixed += np.float32(value.share * weight) * np.asarray(augmented, np.float32)
    return Image.fromarray(np.rint(mixed).clip(0, 255).astype(np.uint8))
