"""Synthetic data, for machines without the real data."""

from pathlib import Path

import numpy as np
from PIL import Image


def arrays(folder: Path, examples: int) -> Path:
    """Writes an `.npz` of random images in CIFAR-10's shapes, `examples` for training."""
    path = folder / "cifar.npz"
    rng = np.random.default_rng(0)
    held_out = max(examples // 50, 10)
    images = rng.integers(0, 256, (examples + held_out, 32, 32, 3), np.uint8)
    labels = np.arange(len(images)) % 10
    np.savez(
        path,
        x_train=images[:examples],
        y_train=labels[:examples],
        x_test=images[examples:],
        y_test=labels[examples:],
    )
    return path


def photos(folder: Path, count: int) -> Path:
    """Writes JPEGs of 500x375 pixels, with about as many bytes as photos of this size."""
    rng = np.random.default_rng(0)
    for i in range(count + 16):
        where = folder / "photos" / ("train" if i < count else "val") / "ab"[i % 2]
        where.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8))
        image = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        image = image + rng.integers(-12, 13, image.shape, np.int16)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(where / f"{i:05}.jpg", quality=85)
    return folder / "photos"
