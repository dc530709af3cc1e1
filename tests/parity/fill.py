"""Reproducible weights and images: functions of names and shapes."""

import zlib

import numpy as np

# A prime, so that no dimension of a tensor divides it: rows and channels never repeat.
PERIOD = 999_983


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 tensor that torch calls `name`.

    Kernels have mean 0 and variance 1 / fan_in; scales lie in 0.5..1, variances in 0.5..1.5, and
    biases and means around 0 without being it, so that each of them shows in the result.
    """
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    size = int(np.prod(shape))
    rng = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    values = _scaled(rng.random(min(size, PERIOD), np.float32), name, shape)
    return np.resize(values, size).reshape(shape)


def _scaled(values: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Of values in 0..1, those of a tensor."""
    if name.endswith("running_var"):
        return values + np.float32(0.5)
    if name.endswith("running_mean") or name.endswith("bias"):
        return np.float32(0.4) * values - np.float32(0.2)
    if name.endswith("norm3.weight"):
        # Standardised kernels have no scale. Without this, each branch of a BiT would
        # drown its shortcut, and 152 layers turn float32's rounding into 1e-4 of the logits.
        return np.float32(0.125) * (values + np.float32(1))
    if len(shape) == 1:
        return np.float32(0.5) * values + np.float32(0.5)
    fan_in = int(np.prod(shape[1:]))
    return (values - np.float32(0.5)) * np.float32((12 / fan_in) ** 0.5)


def images(height: int, width: int, batch: int = 1) -> np.ndarray:
    """Float32 [batch, height, width, 3]."""
    return fill("images", (batch, height, width, 3)) * np.float32(height * width) ** np.float32(0.5)
