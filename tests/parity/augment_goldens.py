"""What torchvision and timm make of one image, and their tables of operations. Made again by

    python -m tests.parity.augment_goldens

which needs both, and torch (as tests/parity/goldens.py). Seconds.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent.parent / "goldens"
JSON, NPZ = FOLDER / "augment.json", FOLDER / "augment.npz"
FILL = (3, 90, 200)
LEVELS = (0, 7, 10)  # of timm's operations
AFFINE = {  # angle, translate, scale, shear
    "turned": (27.0, (0, 0), 1.0, 0.0),
    "moved": (0.0, (3, -5), 1.0, 0.0),
    "all": (-63.0, (-4, 2), 1.3, 21.0),
}


def picture() -> np.ndarray:
    """uint8 [20, 20, 3]: waves, an edge and noise."""
    y, x, k = np.mgrid[:20, :20, :3]
    waves = 110 + 60 * np.sin(x / 5 + k) + 50 * np.cos(y / 7 - k * x / 20)
    noise = np.random.RandomState(0).randint(-25, 26, waves.shape)
    return np.clip(waves + noise + 40 * (x + y > 23), 0, 255).astype(np.uint8)


def torchvision_pixels(image: Image.Image) -> dict[str, Any]:
    from torchvision.transforms import InterpolationMode, autoaugment
    from torchvision.transforms import functional as F

    found: dict[str, Any] = {}
    bilinear, bicubic = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC
    space = autoaugment.TrivialAugmentWide()._augmentation_space(31)
    for name, (magnitudes, signed) in {**space, "Invert": (space["Equalize"][0], False)}.items():
        for k in (4, 17, 30) if magnitudes.ndim else (0,):
            value = float(magnitudes[k] if magnitudes.ndim else 0)
            for sign in (1, -1) if signed else (1,):
                key = f"torchvision/{name}/{k}/{sign}"
                found[key] = autoaugment._apply_op(image, name, sign * value, bilinear, FILL)
    found["torchvision/Rotate/bicubic"] = F.rotate(image, 20.0, bicubic, fill=FILL)
    for turns in (-0.5, -0.1, 0.25):
        found[f"torchvision/hue/{turns}"] = F.adjust_hue(image, turns)
    for name, (angle, shift, scale, shear) in AFFINE.items():
        options = {"interpolation": bilinear, "fill": FILL}
        found[f"torchvision/affine/{name}"] = F.affine(
            image, angle, list(shift), scale, [shear, 0.0], **options
        )
    found["torchvision/grey"] = F.rgb_to_grayscale(image, 3)
    for sigma in (0.5, 2.0):
        found[f"torchvision/blur/{sigma}"] = F.gaussian_blur(image, [3, 3], [sigma, sigma])
    found["torchvision/reflect"] = F.pad(image, 4, padding_mode="reflect")
    return found


def timm_pixels(image: Image.Image) -> dict[str, Any]:
    """Each of RandAugment's operations at some levels, with both signs."""
    from timm.data import auto_augment

    found: dict[str, Any] = {}
    options = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    names = dict.fromkeys(auto_augment._RAND_TRANSFORMS + auto_augment._RAND_INCREASING_TRANSFORMS)
    kept = random.random
    for name in names:
        for level in LEVELS:
            for sign, number in ((1, 0.2), (-1, 0.8)):
                operation = auto_augment.AugmentOp(name, 1.0, level, options)
                random.random = lambda number=number: number
                try:
                    found[f"timm/{name}/{level}/{sign}"] = operation(image)
                except ValueError:  # posterize to 0 bits, in new versions of Pillow
                    continue
                finally:
                    random.random = kept
    return found


def tables() -> dict[str, Any]:
    from timm.data import auto_augment
    from torchvision.transforms import autoaugment

    def space(found: dict[str, Any]) -> dict[str, Any]:
        return {
            name: [magnitudes.reshape(-1).tolist(), signed]
            for name, (magnitudes, signed) in found.items()
        }

    auto = autoaugment.AutoAugment()
    return {
        "wide": space(autoaugment.TrivialAugmentWide()._augmentation_space(31)),
        "autoaugment": space(auto._augmentation_space(10, (224, 224))),
        "policies": {
            policy.value: auto._get_policies(policy)
            for policy in autoaugment.AutoAugmentPolicy
            if policy.value != "svhn"
        },
        "rand": auto_augment._RAND_TRANSFORMS,
        "rand increasing": auto_augment._RAND_INCREASING_TRANSFORMS,
        "tweights": auto_augment._RAND_WEIGHTED_0,
    }


def make() -> None:
    """Writes the goldens."""
    from tests.parity import torch_reference as reference

    image = Image.fromarray(picture())
    pixels = {**torchvision_pixels(image), **timm_pixels(image)}
    arrays = {key: np.asarray(value) for key, value in pixels.items()}
    versions = {package.__name__: package.__version__ for package in (*reference.PACKAGES, Image)}
    text = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in tables().items())
    JSON.write_text(f'{{"versions": {json.dumps(versions)},\n{text}}}\n')
    # one array: hundreds of small members would take more space than their pixels
    keys = [key for key in arrays if key != "torchvision/reflect"]
    stack = np.stack([arrays[key] for key in keys])
    np.savez_compressed(NPZ, keys=keys, pixels=stack, reflect=arrays["torchvision/reflect"])


if __name__ == "__main__":
    make()
