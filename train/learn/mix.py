"""Mixing, erasing and label smoothing: pure functions of a key and a batch, on the device.

Images are float [B, H, W, C], normalised, so that 0 is the mean of a channel; targets are float
[B, K]. Draws are by place in the batch: the same on any mesh. Two examples are mixed with `roll`:
the partner of an example is the one before it in the batch. The order of a batch is random, so the
pair is too, and a sharded batch exchanges one example a device.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Fill = Literal["constant", "channel", "pixel"]

_TRIES = 10  # of random erasing, for a rectangle that fits in the image


def smooth_labels(
    targets: jax.Array, amount: float, *, others: bool = False, outcomes: int | None = None
) -> jax.Array:
    """Targets [B, K] with `amount` of each row spread over the classes.

    Over all K (Szegedy 2016, arXiv:1512.00567, section 7): 1 - a + a / K for the label. With
    `others`, over the other K - 1 (He 2019, arXiv:1812.01187, equation 4): 1 - a for the label.

    Args:
      outcomes: over how many, if not K: 2 for independent labels, each of which is yes or no.

    >>> [round(float(x), 4) for x in smooth_labels(jnp.eye(4), 0.2)[0]]
    [0.85, 0.05, 0.05, 0.05]
    >>> [round(float(x), 4) for x in smooth_labels(jnp.eye(5), 0.2, others=True)[0]]
    [0.8, 0.05, 0.05, 0.05, 0.05]
    """
    classes = targets.shape[-1] if outcomes is None else outcomes
    if others and classes < 2:
        raise ValueError(f"smoothing over the other classes needs at least 2, not {classes}")
    if not others:
        return (1 - amount) * targets + amount / classes
    spread = amount / (classes - 1)
    return (1 - amount - spread) * targets + spread


def mixup(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    alpha: float,
    *,
    per_example: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Each example becomes s times itself plus 1 - s times its partner; s ~ Beta(alpha, alpha).

    Zhang 2018, arXiv:1710.09412. One s for the batch, as in its code, or one `per_example`.

    >>> images, targets = jnp.arange(4.0).reshape(4, 1, 1, 1), jnp.eye(4)
    >>> mixed, soft = mixup(jax.random.key(0), images, targets, 0.2)
    >>> float(jnp.abs(mixed[:, 0, 0, 0] - soft @ jnp.arange(4.0)).max()) < 1e-6
    True
    """
    return mix(key, images, targets, mixup=alpha, per_example=per_example)


def cutmix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    alpha: float,
    *,
    per_example: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """A box of each image is cut out of its partner; targets are mixed by the area.

    Yun 2019, arXiv:1905.04899: s ~ Beta(alpha, alpha), a box of sqrt(1 - s) times each side around
    a uniform centre, clipped to the image; s is corrected to the clipped area.

    >>> images, targets = jnp.repeat(jnp.arange(2.0), 64).reshape(2, 8, 8, 1), jnp.eye(2)
    >>> mixed, soft = cutmix(jax.random.key(1), images, targets, 1.0)
    >>> jnp.allclose(mixed.mean((1, 2, 3)), soft[:, 1]).item()
    True
    """
    return mix(key, images, targets, cutmix=alpha, per_example=per_example)


def mix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    probability: float | jax.Array = 1.0,
    switch: float = 0.5,
    per_example: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """`mixup` or `cutmix`, chosen at random where both are on (timm, `data/mixup.py`).

    Args:
      key: of this batch.
      images: float [B, H, W, C].
      targets: float [B, K].
      mixup: alpha of its Beta distribution; 0: off.
      cutmix: likewise.
      probability: that a batch, or an example, is mixed at all; a traced value can turn it off.
      switch: the probability of CutMix where both are on.
      per_example: every draw is one of each example, not of the batch.

    Returns:
      Images and targets of the same shapes and types.
    """
    _check(images)
    if targets.ndim != 2 or len(targets) != len(images):
        raise ValueError(f"targets: need shape [{len(images)}, K], not {targets.shape}")
    count, height, width, _ = images.shape
    own = _own_share(
        key,
        (count if per_example else 1, height, width),
        mixup=mixup,
        cutmix=cutmix,
        probability=probability,
        switch=switch,
    )
    share = own.mean((1, 2))[:, None]
    weight = own[..., None].astype(images.dtype)
    partner = jnp.roll(images, 1, axis=0)
    mixed = weight * images + (1 - weight) * partner
    return mixed, share * targets + (1 - share) * jnp.roll(targets, 1, axis=0)


def _own_share(
    key: jax.Array,
    shape: tuple[int, int, int],
    *,
    mixup: float,
    cutmix: float,
    probability: float | jax.Array,
    switch: float,
) -> jax.Array:
    """Float32 [N, H, W]: of each pixel, the share that is the image's own."""
    count, height, width = shape
    beta, choose, apply, rows, columns = jax.random.split(key, 5)
    own = jnp.ones(shape, jnp.float32)
    if mixup:
        share = jax.random.beta(beta, mixup, mixup, (count, 1, 1))
        own = jnp.broadcast_to(share, shape)
    if cutmix:
        share = jax.random.beta(jax.random.fold_in(beta, 1), cutmix, cutmix, (count,))
        half = 0.5 * jnp.sqrt(1 - share)
        y = jax.random.randint(rows, (count,), 0, height)
        x = jax.random.randint(columns, (count,), 0, width)
        tall, wide = (half * height).astype(jnp.int32), (half * width).astype(jnp.int32)
        box = _boxes((height, width), y - tall, y + tall, x - wide, x + wide)
        cut = jnp.where(box, 0.0, 1.0)
        if mixup:
            by_box = jax.random.bernoulli(choose, switch, (count, 1, 1))
            own = jnp.where(by_box, cut, own)
        else:
            own = cut
    applied = jax.random.bernoulli(apply, probability, (count, 1, 1))
    return jnp.where(applied, own, 1.0)


def cutout(key: jax.Array, images: jax.Array, side: int) -> jax.Array:
    """A square of `side` pixels of each image becomes 0; it may overhang the border.

    DeVries 2017, arXiv:1708.04552: the centre is uniform over the pixels.

    >>> kept = cutout(jax.random.key(0), jnp.ones((3, 8, 8, 1)), 4)
    >>> [int(x) for x in 64 - kept.sum((1, 2, 3))]
    [12, 12, 6]
    """
    _check(images)
    count, height, width, _ = images.shape
    rows, columns = jax.random.split(key)
    top = jax.random.randint(rows, (count,), 0, height) - side // 2
    left = jax.random.randint(columns, (count,), 0, width) - side // 2
    box = _boxes((height, width), top, top + side, left, left + side)
    return jnp.where(box[..., None], 0, images)


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    probability: float,
    *,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    fill: Fill = "constant",
) -> jax.Array:
    """A rectangle of each image is erased, with `probability`.

    Zhong 2017, arXiv:1708.04896, as timm's `data/random_erasing.py` draws it: the area uniform, the
    aspect ratio log-uniform, up to 10 tries for a rectangle smaller than the image, and a place
    uniform among those that lie inside.

    Args:
      key: of this batch.
      images: float [B, H, W, C], normalised.
      probability: of each image, independently.
      area: range of the rectangle's share of the image.
      aspect: range of its height / width.
      fill: constant: 0, the mean; channel: one draw of N(0, 1) for each channel of the rectangle;
        pixel: one for each value.
    """
    _check(images)
    if fill not in get_args(Fill):
        raise ValueError(f"fill {fill!r}: choose from {', '.join(get_args(Fill))}")
    count, height, width, channels = images.shape
    apply, sizes, shapes, rows, columns, values = jax.random.split(key, 6)
    share = jax.random.uniform(sizes, (count, _TRIES), minval=area[0], maxval=area[1])
    low, high = jnp.log(jnp.asarray(aspect))
    ratio = jnp.exp(jax.random.uniform(shapes, (count, _TRIES), minval=low, maxval=high))
    target = share * height * width
    tall, wide = jnp.round(jnp.sqrt(target * ratio)), jnp.round(jnp.sqrt(target / ratio))
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    tall, wide = (jnp.take_along_axis(x, first, 1)[:, 0].astype(jnp.int32) for x in (tall, wide))
    top = jax.random.randint(rows, (count,), 0, jnp.maximum(height - tall, 0) + 1)
    left = jax.random.randint(columns, (count,), 0, jnp.maximum(width - wide, 0) + 1)
    box = _boxes((height, width), top, top + tall, left, left + wide)
    erased = jax.random.bernoulli(apply, probability, (count,)) & fits.any(1)
    noise = {
        "constant": lambda: jnp.zeros(()),
        "channel": lambda: jax.random.normal(values, (count, 1, 1, channels)),
        "pixel": lambda: jax.random.normal(values, images.shape),
    }[fill]()
    return jnp.where((box & erased[:, None, None])[..., None], noise.astype(images.dtype), images)


def _check(images: jax.Array) -> None:
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images: need float [B, H, W, C], not {images.dtype} {images.shape}")


def _boxes(
    size: tuple[int, int], top: jax.Array, bottom: jax.Array, left: jax.Array, right: jax.Array
) -> jax.Array:
    """Bool [N, H, W]: inside the N boxes, whose bottom row and right column are outside."""
    y, x = jnp.arange(size[0])[:, None], jnp.arange(size[1])[None, :]
    top, bottom, left, right = (edge[:, None, None] for edge in (top, bottom, left, right))
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)
