"""The published tables of AutoAugment, and timm's lists of RandAugment's operations."""

import numpy as np

Table = tuple[tuple[tuple[str, float, int], ...], ...]
"""Pairs of (operation, probability, magnitude from 0 to 9; 0 where it has no meaning)."""

# Cubuk 2019, arXiv:1805.09501, appendix: for ImageNet. `saturation` is the paper's Color.
IMAGENET: Table = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("saturation", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("saturation", 1.0, 2)),
    (("saturation", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("saturation", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)

# The same for CIFAR-10.
CIFAR10: Table = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("saturation", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("saturation", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("saturation", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("saturation", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("saturation", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
)

_WEIGHTS: dict[str, dict[str, float]] = {
    # timm before 1.0: _RAND_CHOICE_WEIGHTS_0
    "w0": {
        **{"rotate": 0.3, "shear_x": 0.2, "shear_y": 0.2, "translate_x": 0.1, "translate_y": 0.1},
        **dict.fromkeys(("saturation", "sharpness", "autocontrast"), 0.025),
        **dict.fromkeys(("solarize", "solarize_add", "contrast", "brightness", "equalize"), 0.005),
        **dict.fromkeys(("posterize", "invert"), 0),
    },
    # timm 1.0: _RAND_WEIGHTED_0
    "tweights": {
        **{"rotate": 3, "shear_x": 2, "shear_y": 2, "translate_x": 1, "translate_y": 1},
        **dict.fromkeys(("saturation", "sharpness", "autocontrast"), 0.25),
        **dict.fromkeys(("solarize", "solarize_add", "contrast", "brightness", "equalize"), 0.05),
        **dict.fromkeys(("posterize", "invert"), 0.05),
    },
}

RAND_NAMES = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
    *("saturation", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x"),
    "translate_y",
)
"""RandAugment's operations."""

RAND_WEIGHTS = {
    key: np.array([weights[name] for name in RAND_NAMES]) / sum(weights.values())
    for key, weights in _WEIGHTS.items()
}
"""`RandAugment.weights` -> the probability of each of `RAND_NAMES`."""
