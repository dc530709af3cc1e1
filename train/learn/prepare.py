"""On the device: uint8 images and labels -> inputs of the network and targets of the loss."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from train.config import MixConfig
from train.distributed.mesh import Batch
from train.learn.mix import cutout, random_erasing, smooth_labels
from train.learn.mix import mix as mix_examples
from train.learn.whiten import whiten


class Normalisation(NamedTuple):
    """What is done to pixels scaled to 0..1: less `mean`, over `std`, whitened."""

    mean: Sequence[float] | np.ndarray
    """One value, one for each channel, or float32 [H, W, C]: a mean image."""
    std: Sequence[float]
    """One value, or one for each channel."""
    matrix: np.ndarray | None = None
    """Float32 [D, D] for `whiten`; None: not whitened."""

    def pixels(self, image: jax.Array) -> jax.Array:
        """The inverse: float [..., H, W, C] -> uint8, clipped to 0..255. Whitened images are
        only clipped, from -2..2 to 0..255: their inverse is the image before.

        >>> Normalisation((0.5,), (0.25,)).pixels(jnp.array([[[-1.0, 0.0, 1.0]]])).tolist()
        [[[64, 128, 191]]]
        """
        white = self.matrix is not None
        mean, std = ((0.5,), (0.25,)) if white else (self.mean, self.std)
        scaled = image * jnp.asarray(std, jnp.float32) + jnp.asarray(mean, jnp.float32)
        return jnp.round(scaled * 255).clip(0, 255).astype(jnp.uint8)


class Prepare(Protocol):
    """See `make_prepare`."""

    def __call__(
        self,
        batch: Batch,
        *,
        train: bool,
        key: jax.Array | None = None,
        step: jax.Array | None = None,
    ) -> Batch: ...


def make_prepare(
    num_classes: int,
    mean: Sequence[float] | np.ndarray,
    std: Sequence[float],
    mix: MixConfig,
    *,
    mix_until: int | None = None,
    matrix: np.ndarray | None = None,
) -> Prepare:
    """A function (batch, *, train, key, step) -> batch, `image` normalised and `target` added.

    `image`: uint8 [B, H, W, 1 or 3] -> float32 [B, H, W, 3], one channel repeated to three;
    pixels scaled to 0..1, less `mean`, over `std` (see `Normalisation`).
    `target`: float32 [B, num_classes], one-hot; or `label` itself, if it is 0/1 [B, num_classes].

    In training, `mix` is applied: labels are smoothed, images erased, then examples mixed. Where
    they are mixed, `label` becomes the class with the largest weight in `target`: that is the class
    that the accuracy of training counts as right.

    Args:
      mix: `mix.*`.
      mix_until: the first step without mixup and CutMix; None: all steps have them.
      matrix: of `whiten`; None: images are not whitened.

    The function's own arguments, which training needs where `mix` draws anything:
      key: of this step.
      step: int32 scalar, counted from 0.
    """
    normalise = _normalise(Normalisation(mean, std, matrix))

    def prepare(
        batch: Batch,
        *,
        train: bool,
        key: jax.Array | None = None,
        step: jax.Array | None = None,
    ) -> Batch:
        image = normalise(batch["image"])
        target = _targets(batch["label"], num_classes)
        if not train:
            return {**batch, "image": image, "target": target}
        if mix.label_smoothing:
            target = _smooth(mix, target, several=batch["label"].ndim > 1)
        image = _erase(mix, key, image)
        if not mix.mixes:
            return {**batch, "image": image, "target": target}
        mixes: float | jax.Array = mix.probability
        if mix_until is not None:
            assert step is not None, "mix.off needs the step"
            mixes = jnp.where(step < mix_until, mixes, 0.0)
        image, target = _mix(mix, key, image, target, mixes)
        label = target > 0.5 if batch["label"].ndim > 1 else target.argmax(-1)
        label = label.astype(batch["label"].dtype)
        return {**batch, "image": image, "target": target, "label": label}

    return prepare


def _targets(label: jax.Array, classes: int) -> jax.Array:
    if label.ndim > 1:
        return label.astype(jnp.float32)
    return jax.nn.one_hot(label, classes, dtype=jnp.float32)


def _smooth(config: MixConfig, target: jax.Array, *, several: bool) -> jax.Array:
    """Smoothed targets; of several labels, each is smoothed over yes and no."""
    others = config.smooth_over == "others"
    outcomes = 2 if several else None
    return smooth_labels(target, config.label_smoothing, others=others, outcomes=outcomes)


def _normalise(normalisation: Normalisation) -> Callable[[jax.Array], jax.Array]:
    mean, std, matrix = normalisation
    center = jnp.asarray(mean, jnp.float32) * 255
    scale = 1 / (jnp.asarray(std, jnp.float32) * 255)

    def normalise(image: jax.Array) -> jax.Array:
        if image.shape[-1] == 1:
            image = jnp.repeat(image, 3, axis=-1)
        image = (image.astype(jnp.float32) - center) * scale
        return image if matrix is None else whiten(image, jnp.asarray(matrix, jnp.float32))

    return normalise


def _erase(config: MixConfig, key: jax.Array | None, image: jax.Array) -> jax.Array:
    if config.cutout:
        image = cutout(_part(key, 0), image, config.cutout)
    if config.erasing:
        image = random_erasing(
            _part(key, 1),
            image,
            config.erasing,
            area=config.erasing_area,
            aspect=config.erasing_aspect,
            fill=config.erasing_fill,
        )
    return image


def _mix(
    config: MixConfig,
    key: jax.Array | None,
    image: jax.Array,
    target: jax.Array,
    probability: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return mix_examples(
        _part(key, 2),
        image,
        target,
        mixup=config.mixup,
        cutmix=config.cutmix,
        probability=probability,
        switch=config.switch,
        per_example=config.per == "example",
    )


def _part(key: jax.Array | None, number: int) -> jax.Array:
    """A key of its own for each kind of draw."""
    assert key is not None, "erasing and mixing need a key"
    return jax.random.fold_in(key, number)
