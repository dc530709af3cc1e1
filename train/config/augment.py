"""The options of augmentation on the host, `augment.*`."""

from dataclasses import dataclass
from typing import Literal

from train.config.base import check, check_duration, check_types, is_finite
from train.config.policy import parse_policy


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images on the host, in this order: crop, flips, affine map, policy,
    colour jitter, grey, blur, lighting."""

    crop: Literal["random_resized", "pad", "none"] = "random_resized"
    """Random area and aspect ratio (Szegedy 2015), pad and crop (He 2016a, 4.2), or the evaluation
    crop."""
    area: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a random_resized crop covers."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio of that crop, width / height."""
    scale: tuple[int, int] = (0, 0)
    """Scale jitter instead of `crop`: the short side becomes a random length in this range, such as
    256 480, then image_size is cropped at random (Simonyan 2015; He 2016a, 3.4); 0 0: off."""
    pad: int = 4
    """Pixels added on every side before a `pad` crop."""
    pad_mode: Literal["zeros", "reflect"] = "zeros"
    """Values of these pixels: 0, or the image mirrored at its edge (Zagoruyko 2016)."""
    interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"
    """Filter of the crop's resize and of geometric operations; random: drawn for each of them
    (timm's train_interpolation)."""
    flip: bool = True
    """Flip left-right with probability 1/2."""
    vertical_flip: bool = False
    """Flip top-bottom with probability 1/2."""
    rotate: float = 0.0
    """Rotate by an angle between -rotate and rotate, in degrees."""
    translate: float = 0.0
    """Shift along both axes by at most this share of the side."""
    shear: float = 0.0
    """Shear along the rows by an angle between -shear and shear, in degrees."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of the factor by which the content is enlarged around the centre."""
    policy: str = ""
    """A policy of random operations: "ta_wide" (TrivialAugment), "autoaugment" (the table of
    ImageNet), "autoaugment-cifar10", "augmix", or RandAugment in timm's form such as
    "rand-m7-mstd0.5-inc1"; '': none."""
    fill: tuple[int, ...] = (0,)
    """Colour of the pixels outside of the image after a rotation, shear or shift: one value of
    0..255, or three for RGB."""
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Colour jitter: brightness, contrast and saturation are multiplied by 1 + U(-a, a), in random
    order, and the hue is shifted by U(-a, a) of a turn."""
    grey: float = 0.0
    """Probability of converting an image to grey."""
    blur: float = 0.0
    """Probability of a Gaussian blur, with a kernel of a tenth of the image (Chen 2020, SimCLR)."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels."""
    lighting: float = 0.0
    """Standard deviation of the noise along the principal components of ImageNet's colours
    (Krizhevsky 2012, section 4.1), such as 0.1; 0: off."""
    repeats: int = 1
    """Repeated augmentation (Hoffer 2020; Berman 2019): a batch has each image this many times,
    each time augmented anew. An epoch is as long as before, and has 1 / repeats of the images."""
    size_start: int = 0
    """Side of the training images in the first epochs, such as 128; they grow to data.image_size by
    `size_ramp` (progressive resizing). 0: all have data.image_size. Evaluation does not change."""
    size_ramp: tuple[str, str] = ("50%", "90%")
    """When images begin to grow, and when they have data.image_size: "50%" of the run, "8ep"."""
    size_step: int = 32
    """Sizes in between are rounded to multiples of this. Each size is compiled once."""

    def __post_init__(self) -> None:
        check_types(self, "augment.")
        low, high = self.area
        check("augment.area", self.area, 0 < low <= high <= 1, "needs 0 < low <= high <= 1")
        low, high = self.scale
        rule = "needs 1 <= low <= high, or 0 0 (off)"
        check("augment.scale", self.scale, 1 <= low <= high or low == high == 0, rule)
        check("augment.pad", self.pad, self.pad >= 0, "must be at least 0")
        for name in ("aspect", "zoom", "blur_sigma"):
            low, high = value = getattr(self, name)
            check(f"augment.{name}", value, 0 < low <= high, "needs 0 < low <= high")
            check(f"augment.{name}", value, is_finite(high), "must be finite")
        for name, most in (("rotate", 180), ("translate", 1), ("grey", 1), ("blur", 1)):
            value = getattr(self, name)
            check(f"augment.{name}", value, 0 <= value <= most, f"must be in [0, {most}]")
        check("augment.shear", self.shear, 0 <= self.shear < 90, "must be in [0, 90)")
        parse_policy(self.policy)
        check("augment.fill", self.fill, len(self.fill) in (1, 3), "needs one value, or three")
        rule = "must be in 0..255"
        check("augment.fill", self.fill, all(0 <= value <= 255 for value in self.fill), rule)
        rule = "needs three values of at least 0, and a hue in [0, 0.5]"
        good = min(self.jitter) >= 0 and is_finite(*self.jitter) and self.jitter[3] <= 0.5
        check("augment.jitter", self.jitter, good, rule)
        check("augment.repeats", self.repeats, self.repeats >= 1, "must be at least 1")
        check("augment.lighting", self.lighting, self.lighting >= 0, "must be at least 0")
        check("augment.lighting", self.lighting, is_finite(self.lighting), "must be finite")
        check("augment.size_start", self.size_start, self.size_start >= 0, "must be at least 0")
        for duration in self.size_ramp:
            check_duration("augment.size_ramp", duration, share=True, positive=False)
        check("augment.size_step", self.size_step, self.size_step >= 1, "must be at least 1")

    @property
    def moves(self) -> bool:
        """Whether images go through an affine map."""
        return bool(self.rotate or self.translate or self.shear or self.zoom != (1.0, 1.0))
