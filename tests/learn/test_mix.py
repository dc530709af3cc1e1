"""train/learn/mix.py: distributions and closed forms; the paper's and other libraries' formulas."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.config import MixConfig
from train.distributed.mesh import batch_sharding, make_mesh
from train.learn.mix import cutmix, cutout, mix, mixup, random_erasing, smooth_labels
from train.learn.prepare import make_prepare

N, SIZE = 1024, 16
KEY = jax.random.key(3)
INDEX = np.arange(N, dtype=np.float32)


def batch(count: int = N, size: int = SIZE) -> tuple[jax.Array, jax.Array]:
    """Image i is i / count everywhere, and its target class is i % 4."""
    values = jnp.arange(count, dtype=jnp.float32) / count
    images = jnp.broadcast_to(values[:, None, None, None], (count, size, size, 1))
    return images, jax.nn.one_hot(jnp.arange(count) % 4, 4)


def own_share(images: jax.Array, mixed: jax.Array) -> np.ndarray:
    """float64 [N, H, W]: s of each pixel s * x + (1 - s) * partner; NaN never."""
    own = np.asarray(images, np.float64)[..., 0]
    partner = np.roll(own, 1, axis=0)
    return (np.asarray(mixed, np.float64)[..., 0] - partner) / (own - partner)


def target_share(targets: jax.Array, mixed: jax.Array) -> np.ndarray:
    """[N]: the weight of each example's own class."""
    return (np.asarray(targets) * np.asarray(mixed)).sum(-1)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixup_draws_a_beta_distribution(alpha):
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)); images and targets have the same share."""
    images, targets = batch()
    mixed, soft = mixup(KEY, images, targets, alpha, per_example=True)
    share = target_share(targets, soft)
    np.testing.assert_allclose(
        own_share(images, mixed)[5:], share[5:, None, None] + 0 * mixed[5:, ..., 0], atol=2e-3
    )
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(share.mean() - 0.5) < 4 * (variance / N) ** 0.5
    assert share.var() == pytest.approx(variance, rel=0.1)
    np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("options", [{"mixup": 0.5}, {"cutmix": 1.0}])
def test_one_draw_for_a_batch_or_one_for_each_example(options):
    images, targets = batch(64)
    for per_example, different in ((False, 1), (True, 30)):
        _, soft = mix(KEY, images, targets, **options, per_example=per_example)
        found = len(set(np.round(target_share(targets, soft), 5)))
        assert found == 1 if different == 1 else found > different


def test_cutmix_is_a_box_and_its_share_the_area():
    """torchvision's formula, for boxes of every place; the mean area over draws in closed form."""
    images, targets = batch()
    mixed, soft = cutmix(KEY, images, targets, 1.0, per_example=True)
    own = own_share(images, mixed)
    kept = own > 0.5
    np.testing.assert_allclose(own, kept, atol=2e-3)  # of one or of the other, nothing between
    np.testing.assert_allclose(target_share(targets, soft), kept.mean((1, 2)), atol=1e-6)
    cut = ~kept
    for box in cut[cut.any((1, 2))]:
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box.sum() == len(rows) * len(columns)  # a full rectangle
        assert np.ptp(rows) == len(rows) - 1 and np.ptp(columns) == len(columns) - 1
    # s uniform: half a side is int(size / 2 * sqrt(1 - s)), around each pixel, clipped.
    halves = np.floor(SIZE / 2 * np.sqrt(np.linspace(0.0005, 0.9995, 1000))).astype(int)
    sides = {}
    for half in set(halves):
        ends = [(max(c - half, 0), min(c + half, SIZE)) for c in range(SIZE)]
        sides[half] = np.mean([b - a for a, b in ends])
    expected = np.mean([sides[h] ** 2 for h in halves]) / SIZE**2
    areas = cut.mean((1, 2))
    assert abs(areas.mean() - expected) < 4 * areas.std() / N**0.5


def test_both_are_switched_and_applied_with_their_probabilities():
    images, targets = batch()
    options = {"mixup": 1.0, "cutmix": 1.0, "per_example": True}
    mixed, _ = mix(KEY, images, targets, **options, probability=0.75, switch=0.25)
    own = own_share(images, mixed)[5:]
    whole = np.abs(own - 1).max((1, 2)) < 1e-3
    flat = np.ptp(own, axis=(1, 2)) < 4e-3
    # CutMix leaves an image whole where its box has no pixel: half a side below one.
    empty = 1 - (1 - (2 / SIZE) ** 2)
    for found, expected in ((whole, 0.25 + 0.75 * 0.25 * empty), (flat & ~whole, 0.75 * 0.75)):
        assert abs(found.mean() - expected) < 4 * (expected * (1 - expected) / N) ** 0.5


def test_without_a_chance_not_a_bit_changes():
    images, targets = batch(8)
    mixed, soft = mix(KEY, images, targets, mixup=0.2, cutmix=1.0, probability=0.0)
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(soft, targets)


@pytest.mark.parametrize("side", [1, 4, 5, 16])
def test_cutout_is_a_square_around_any_pixel(side):
    erased = np.asarray(cutout(KEY, jnp.ones((N, SIZE, SIZE, 2)), side)) == 0
    assert (erased[..., 0] == erased[..., 1]).all()
    counts = [min(c - side // 2 + side, SIZE) - max(c - side // 2, 0) for c in range(SIZE)]
    expected = {a * b for a, b in itertools.product(counts, counts)}
    areas = erased[..., 0].sum((1, 2))
    assert set(areas) <= expected
    assert areas.mean() == pytest.approx(np.mean(counts) ** 2, rel=0.05)


def test_erased_rectangles_are_inside_and_of_the_area_and_aspect():
    size = 64
    images = jnp.full((N, size, size, 3), 7.0)
    found = np.asarray(random_erasing(KEY, images, 0.5, area=(0.1, 0.2), aspect=(0.5, 2.0)))
    erased = (found == 0).all(-1)
    assert ((found == 0).any(-1) == erased).all() and set(np.unique(found)) == {0.0, 7.0}
    boxes = erased[erased.any((1, 2))]
    assert abs(len(boxes) / N - 0.5) < 4 * 0.5 / N**0.5
    tall, wide = boxes.any(2).sum(1), boxes.any(1).sum(1)
    assert (boxes.sum((1, 2)) == tall * wide).all()
    area, ratio = tall * wide / size**2, tall / wide
    assert 0.09 < area.min() < 0.105 and 0.195 < area.max() < 0.21
    assert abs(area.mean() - 0.15) < 4 * 0.0289 / len(area) ** 0.5  # of a uniform draw
    assert 0.48 < ratio.min() < 0.55 and 1.85 < ratio.max() < 2.1
    assert abs(np.log(ratio).mean()) < 4 * np.log(ratio).std() / len(ratio) ** 0.5
    rows = boxes.any(2).argmax(1)
    assert rows.min() == 0 and (rows + tall).max() == size  # as far as the borders


def test_what_does_not_fit_is_tried_again_or_left():
    images = jnp.ones((64, 8, 8, 1))
    whole = random_erasing(KEY, images, 1.0, area=(0.99, 1.0), aspect=(1.0, 1.0))
    np.testing.assert_array_equal(whole, images)  # no rectangle smaller than the image
    some = random_erasing(KEY, images, 1.0, area=(0.02, 1 / 3))
    assert (np.asarray(some) == 0).any((1, 2, 3)).all()


@pytest.mark.parametrize("fill, different", [("constant", 1), ("channel", 3), ("pixel", 3 * 256)])
def test_fill(fill, different):
    found = np.asarray(
        random_erasing(
            KEY, jnp.full((256, 32, 32, 3), 7.0), 1.0, area=(0.25, 0.25), aspect=(1, 1), fill=fill
        )
    )
    drawn = [image[(image != 7).all(-1)] for image in found[:200]]
    assert {len(values) for values in drawn} == {256}
    assert all(different - 3 <= len(np.unique(values)) <= different for values in drawn)
    if fill != "constant":
        values = np.concatenate(drawn)
        assert abs(values.mean()) < 0.2 and values.std() == pytest.approx(1, abs=0.1)


def test_smoothing_in_both_forms():
    for others, label, rest in ((False, 0.9 + 0.1 / 5, 0.1 / 5), (True, 0.9, 0.1 / 4)):
        found = smooth_labels(jnp.eye(5), 0.1, others=others)
        np.testing.assert_allclose(found, np.eye(5) * (label - rest) + rest, rtol=1e-6)
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)


def prepared(config: MixConfig, *, step: int = 0, mix_until: int | None = None, train: bool = True):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    images = {"image": jnp.asarray(pixels), "label": jnp.arange(64, dtype=jnp.int32) % 4}
    prepare = make_prepare(4, (0.5,), (0.25,), config, mix_until=mix_until)
    return jax.jit(lambda b: prepare(b, train=train, key=KEY, step=jnp.int32(step)))(images)


def test_the_label_is_the_class_with_the_larger_weight():
    found = prepared(MixConfig(mixup=1.0, per="example", label_smoothing=0.1))
    assert (found["label"] == found["target"].argmax(-1)).all()
    changed = np.asarray(found["label"]) != np.arange(64) % 4
    assert 15 < changed.sum() < 49  # s below 1/2
    assert found["label"].dtype == jnp.int32


def test_mixing_ends_where_it_should_and_evaluation_has_none():
    config = MixConfig(mixup=1.0, cutmix=1.0)
    plain = prepared(MixConfig())
    same = lambda a, b: all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))  # noqa: E731
    assert not same(prepared(config, step=4, mix_until=5), plain)
    assert same(prepared(config, step=5, mix_until=5), plain)
    everything = MixConfig(mixup=1.0, cutmix=1.0, cutout=4, erasing=1.0, label_smoothing=0.1)
    assert same(prepared(everything, train=False), prepared(MixConfig(), train=False))


def test_eight_devices_draw_and_mix_as_one(devices):
    """Draws are by place in the global batch; partners may be on another device."""
    config = MixConfig(mixup=0.4, cutmix=1.0, per="example", cutout=3, erasing=0.5)
    prepare = make_prepare(4, (0.5,), (0.25,), config)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), np.uint8)
    batch = {"image": pixels, "label": np.arange(32, dtype=np.int32) % 4}
    found = []
    for count in (1, 8):
        where = batch_sharding(make_mesh(devices[:count]))
        step = jax.jit(lambda b: prepare(b, train=True, key=KEY), out_shardings=where)
        found.append(jax.device_get(step(jax.device_put(batch, where))))
    one, eight = found
    assert all(np.array_equal(one[name], eight[name]) for name in ("image", "target", "label"))
    assert not np.array_equal(one["target"], np.eye(4)[batch["label"]])


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda x, t: mixup(KEY, x.astype(jnp.uint8), t, 0.2),
            "need float [B, H, W, C], not uint8",
        ),
        (
            lambda x, t: cutmix(KEY, x[0], t, 0.2),
            "need float [B, H, W, C], not float32 (16, 16, 1)",
        ),
        (lambda x, t: mixup(KEY, x, t[:3], 0.2), "targets: need shape [4, K], not (3, 4)"),
        (lambda x, t: mixup(KEY, x, t[:, 0], 0.2), "targets: need shape [4, K], not (4,)"),
        (
            lambda x, t: random_erasing(KEY, x, 0.5, fill="grey"),
            "choose from constant, channel, pi",
        ),
        (lambda x, t: smooth_labels(t[:, :1], 0.1, others=True), "needs at least 2, not 1"),
    ],
)
def test_wrong_arrays_are_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(*batch(4))
