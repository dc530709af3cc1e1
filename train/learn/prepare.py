"""On the device: uint8 images and labels -> inputs of the network and targets of the loss."""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp

from train.config import MixConfig
from train.distributed.mesh import Batch


class Prepare(Protocol):
    """What `make_prepare` returns."""

    def __call__(self, batch: Batch, *, train: bool) -> Batch: ...


def make_prepare(
    num_classes: int, mean: Sequence[float], std: Sequence[float], mix: MixConfig
) -> Prepare:
    """A function (batch, *, train) -> batch with `image` normalised and `target` added.

    `image`: uint8 [B, H, W, 1 or 3] -> float32 [B, H, W, 3], one channel repeated to three;
    pixels scaled to 0..1, less `mean`, over `std` (one value, or one for each channel).
    `target`: float32 [B, num_classes], one-hot. In training it is smoothed: the label gets 1 - s,
    and s is spread evenly over all classes (Szegedy 2016, arXiv:1512.00567, section 7).
    """
    center = jnp.asarray(mean, jnp.float32) * 255
    scale = 1 / (jnp.asarray(std, jnp.float32) * 255)

    def prepare(batch: Batch, *, train: bool) -> Batch:
        image = batch["image"]
        if image.shape[-1] == 1:
            image = jnp.repeat(image, 3, axis=-1)
        target = jax.nn.one_hot(batch["label"], num_classes, dtype=jnp.float32)
        if train and mix.label_smoothing:
            target = (1 - mix.label_smoothing) * target + mix.label_smoothing / num_classes
        return {**batch, "image": (image.astype(jnp.float32) - center) * scale, "target": target}

    return prepare
