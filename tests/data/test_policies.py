"""train/data/images/policies.py, draws.py: the operations that are drawn, and their values."""

import itertools
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL.Image import Resampling
from scipy import stats

from tests.data.test_operations import NAMES, TABLES, torchvision_operation
from train.config import AugmentConfig
from train.config.policy import RandAugment, parse_policy
from train.data.images import policies
from train.data.images.draws import (
    affine_map,
    colour_jitter,
    draw_operations,
    lighting,
    sample_scaled_crop,
)
from train.data.images.policies import MIXED, WIDE, draw_policy
from train.data.images.policy_tables import CIFAR10, IMAGENET, RAND_NAMES, RAND_WEIGHTS

SIGNED = {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"}
FACTORS = {"brightness", "saturation", "contrast", "sharpness"}
POSITIVE, NEGATIVE = (SimpleNamespace(random=lambda x=x: x) for x in (0.2, 0.8))


def draws(policy: str, count: int, size: int = 224, **options) -> list:
    rng = np.random.default_rng(len(policy))
    return [draw_policy(policy, rng, size, **options) for _ in range(count)]


def is_uniform(counts) -> bool:
    return stats.chisquare(list(counts)).pvalue > 1e-3


# --- strings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("rand", RandAugment()),
        ("rand-m7-mstd0.5-inc1", RandAugment(7, std=0.5, increasing=True)),
        ("rand-n3-m9-p0.25-mmax20", RandAugment(9, 3, 0.25, largest=20.0)),
        ("rand-mstd101", RandAugment(std=math.inf)),
        ("rand-mstdinf", RandAugment(std=math.inf)),
        ("rand-mstd100", RandAugment(std=100.0)),
        ("rand-w0-inc0", RandAugment(weights="w0")),
        ("rand-tweights", RandAugment(weights="tweights")),
        ("ta_wide", "ta_wide"),
    ],
)
def test_strings_are_read_as_timm_does(text, expected):
    assert parse_policy(text) == expected


# --- TrivialAugment, AutoAugment -----------------------------------------------------------------


@pytest.mark.parametrize("key", ["wide", "autoaugment"])
@pytest.mark.parametrize("sign, rng", [(1, POSITIVE), (-1, NEGATIVE)])
def test_values_are_torchvisions(key, sign, rng):
    names = {NAMES[name] for name in TABLES[key]}
    assert names == {*WIDE} if key == "wide" else names == {*WIDE, "invert"} - {"identity"}
    for name, (magnitudes, signed) in TABLES[key].items():
        for k, magnitude in enumerate(magnitudes):
            # torch's 16 is 15.999999, of which it takes the whole part
            magnitude = round(magnitude) if abs(magnitude - round(magnitude)) < 1e-5 else magnitude
            expected = torchvision_operation(name, sign * magnitude if signed else magnitude)
            level = k / max(len(magnitudes) - 1, 1)
            ranges = policies._WIDE_RANGES if key == "wide" else policies._auto_ranges(224)
            found = policies._value(expected.name, level, ranges, rng)
            assert found == pytest.approx(expected.value, rel=1e-5, abs=1e-4), (name, k)


def test_tables_are_torchvisions():
    for key, table in (("imagenet", IMAGENET), ("cifar10", CIFAR10)):
        expected = [
            [(NAMES[name], p, magnitude or 0) for name, p, magnitude in pair]
            for pair in TABLES["policies"][key]
        ]
        assert [list(pair) for pair in table] == expected and len(table) == 25


def test_trivial_augment_draws_operations_bins_and_signs_uniformly():
    found = draws("ta_wide", 28_000)
    assert {len(operations) for operations in found} == {1}
    counts = Counter(operation.name for [operation] in found)
    assert set(counts) == set(WIDE) and is_uniform(counts.values())
    for name, most in (("shear_x", 0.99), ("rotate", 135), ("brightness", 0.99)):
        values = np.array([operation.value for [operation] in found if operation.name == name])
        bins = np.rint((values - (name in FACTORS)) / most * 30).astype(int)
        counts = np.bincount(bins + 30, minlength=61)
        assert len(counts) == 61
        assert is_uniform([counts[30], *(counts[30 + k] + counts[30 - k] for k in range(1, 31))])
        assert is_uniform([counts[:30].sum(), counts[31:].sum()])


@pytest.mark.parametrize(
    "policy, table", [("autoaugment", IMAGENET), ("autoaugment-cifar10", CIFAR10)]
)
def test_autoaugment_draws_each_pair_equally_often(policy, table):
    count = 20_000
    found = Counter(
        tuple(operation.name for operation in operations) for operations in draws(policy, count)
    )
    expected: Counter = Counter()
    for (a, p, _), (b, q, _) in table:
        for names, chance in (
            ((a, b), p * q),
            ((a,), p * (1 - q)),
            ((b,), (1 - p) * q),
            ((), (1 - p) * (1 - q)),
        ):
            expected[names] += chance * count / 25
    names = [name for name in expected if expected[name] > 0]
    assert set(found) <= set(names)
    assert stats.chisquare([found[n] for n in names], [expected[n] for n in names]).pvalue > 1e-3


# --- RandAugment ---------------------------------------------------------------------------------


def test_rand_augment_draws_operations_equally_often_and_applies_half_of_them():
    found = draws("rand-m9-n3", 12_000)
    counts = np.bincount([len(operations) for operations in found], minlength=4)
    assert stats.chisquare(counts, 12_000 * np.array([1, 3, 3, 1]) / 8).pvalue > 1e-3
    names = Counter(operation.name for operations in found for operation in operations)
    assert set(names) == set(RAND_NAMES) and is_uniform(names.values())
    # with replacement: a pair of equal names is as frequent as any other
    pairs = [operations[:2] for operations in found if len(operations) > 1]
    equal = sum(a.name == b.name for a, b in pairs)
    assert abs(equal - len(pairs) / 15) < 4 * math.sqrt(len(pairs) / 15)
    assert {len(operations) for operations in draws("rand-p1-n2", 99)} == {2}


@pytest.mark.parametrize("key", ["w0", "tweights"])
def test_weights_are_those_of_the_operations_drawn_without_replacement(key):
    single = Counter(ops[0].name for ops in draws(f"rand-p1-n1-{key}", 8000))
    weights = dict(zip(RAND_NAMES, RAND_WEIGHTS[key], strict=True))
    assert set(single) == {name for name, weight in weights.items() if weight}
    assert (
        stats.chisquare(
            [single[name] for name in single], [8000 * weights[name] for name in single]
        ).pvalue
        > 1e-3
    )
    assert all(a.name != b.name for a, b in draws(f"rand-p1-n2-{key}", 500))


def test_weights_are_timms():
    expected = {NAMES[name.removesuffix("Increasing")]: w for name, w in TABLES["tweights"].items()}
    found = dict(zip(RAND_NAMES, RAND_WEIGHTS["tweights"] * sum(expected.values()), strict=True))
    assert found == pytest.approx(expected)


def magnitudes(policy: str, count: int = 6000) -> np.ndarray:
    """Of the shears, of which the value is 0.3 * magnitude / 10, with both signs."""
    values = [op.value for ops in draws(policy, count) for op in ops if op.name.startswith("shear")]
    assert is_uniform([sum(value > 0 for value in values), sum(value < 0 for value in values)])
    return np.abs(values) / 0.03


def test_magnitudes_are_normal_and_clipped():
    assert np.allclose(magnitudes("rand-m9"), 9)
    found = magnitudes("rand-m7-mstd0.5-inc1")
    assert stats.kstest(found, stats.norm(7, 0.5).cdf).pvalue > 1e-3
    found = magnitudes("rand-m9-mstd2")
    share = np.mean(found == 10)
    expected = stats.norm(9, 2).sf(10)
    assert found.max() == 10 and abs(share - expected) < 4 * math.sqrt(expected / len(found))
    assert np.allclose(magnitudes("rand-m15"), 10) and np.allclose(
        magnitudes("rand-m15-mmax20"), 15
    )


def test_magnitudes_are_uniform_with_an_infinite_deviation():
    for policy, most in (("rand-m9-mstdinf", 9), ("rand-m15-mmax20-mstd101", 15)):
        assert stats.kstest(magnitudes(policy), stats.uniform(0, most).cdf).pvalue > 1e-3


def test_increasing_operations_grow_stronger_with_the_level():
    def strength(name, level, increasing):
        value = policies.rand_value(name, level, increasing, POSITIVE, 224)
        if name in FACTORS:
            return abs(value - 1)
        return {"posterize": 8 - value, "solarize": 256 - value}.get(name, abs(value))

    levels = np.linspace(0, 1, 21)
    for name in RAND_NAMES:
        steps = np.diff([strength(name, level, True) for level in levels])
        assert (steps >= -1e-12).all(), name
    for name in ("posterize", "solarize"):  # without `inc1` these grow weaker
        assert (np.diff([strength(name, level, False) for level in levels]) <= 0).all()


# --- AugMix --------------------------------------------------------------------------------------


def test_augmix_draws_as_its_algorithm():
    found = [operation.value for [operation] in draws("augmix", 4000)]
    assert stats.kstest([m.share for m in found], "uniform").pvalue > 1e-3  # Beta(1, 1)
    weights = np.array([m.weights for m in found])
    assert np.allclose(weights.sum(1), 1)
    for column in weights.T:  # of Dirichlet(1, 1, 1) each is Beta(1, 2)
        assert stats.kstest(column, stats.beta(1, 2).cdf).pvalue > 1e-3
    chains = [chain for m in found for chain in m.chains]
    assert is_uniform(np.bincount([len(chain) for chain in chains], minlength=4)[1:])
    operations = list(itertools.chain(*chains))
    counts = Counter(operation.name for operation in operations)
    assert set(counts) == set(MIXED) and is_uniform(counts.values())
    sheared = [abs(op.value) for op in operations if op.name.startswith("shear")]
    assert stats.kstest(sheared, stats.uniform(0.003, 0.087).cdf).pvalue > 1e-3  # 0.1 to 3 of 10
    values = {name: {op.value for op in operations if op.name == name} for name in MIXED}
    assert values["posterize"] == {3, 4} and max(values["solarize"]) == 254
    assert values["rotate"] == set(range(-8, 9)) and max(values["translate_x"]) == 22


# --- filters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["rand-p1", "augmix"])
def test_filters_of_geometric_operations(policy):
    def filters(interpolation):
        found = itertools.chain(*draws(policy, 600, interpolation=interpolation))
        if policy == "augmix":
            found = [op for mixed in found for op in itertools.chain(*mixed.value.chains)]
        return Counter(op.resample for op in found if op.name in SIGNED)

    assert set(filters("bilinear")) == {Resampling.BILINEAR}
    assert set(filters("bicubic")) == {Resampling.BICUBIC}
    assert len(filters("random")) == 2 and is_uniform(filters("random").values())


# --- options without a policy --------------------------------------------------------------------


def test_jitter_draws_factors_and_their_order_uniformly():
    rng = np.random.default_rng(0)
    found = [colour_jitter((0.4, 1.5, 0.2, 0.1), rng) for _ in range(6000)]
    ranges = {
        **{"brightness": (0.6, 1.4), "contrast": (0, 2.5), "saturation": (0.8, 1.2)},
        "hue": (-0.1, 0.1),
    }
    for name, (low, high) in ranges.items():
        values = [op.value for ops in found for op in ops if op.name == name]
        assert len(values) == 6000
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    orders = Counter(tuple(op.name for op in ops) for ops in found)
    assert len(orders) == 24 and is_uniform(orders.values())
    assert [op.name for op in colour_jitter((0, 0.1, 0, 0), rng)] == ["contrast"]


def test_lighting_is_normal():
    rng = np.random.default_rng(0)
    alphas = np.array([operation.value for _ in range(2000) for operation in lighting(0.1, rng)])
    for column in alphas.T:
        assert stats.kstest(column, stats.norm(0, 0.1).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(alphas.T)[np.triu_indices(3, 1)]).max() < 4 / math.sqrt(2000)


def test_affine_maps_are_uniform():
    augment = AugmentConfig(rotate=30, translate=0.1, shear=15, zoom=(0.8, 1.5))
    rng = np.random.default_rng(0)
    values = [op.value for _ in range(3000) for op in affine_map(augment, 100, rng)]
    for found, low, high in (
        ([v.angle for v in values], -30, 30),
        ([v.shear for v in values], -15, 15),
        ([v.zoom for v in values], 0.8, 1.5),
    ):
        assert stats.kstest(found, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    for axis in range(2):
        shifts = [v.translate[axis] for v in values]
        assert set(shifts) == set(range(-10, 11))
        inner = Counter(shift for shift in shifts if abs(shift) < 10)
        assert is_uniform(inner.values())


def test_grey_and_blur_have_their_probability():
    augment = AugmentConfig(grey=0.2, blur=0.5, blur_sigma=(0.5, 1.5))
    rng = np.random.default_rng(0)
    found = [draw_operations(augment, 224, rng) for _ in range(4000)]
    names = Counter(tuple(op.name for op in ops) for ops in found)
    expected = {("grey", "blur"): 0.1, ("grey",): 0.1, ("blur",): 0.4, (): 0.4}
    assert (
        stats.chisquare(
            [names[key] for key in expected], [4000 * share for share in expected.values()]
        ).pvalue
        > 1e-3
    )
    sigmas = [op.value for ops in found for op in ops if op.name == "blur"]
    assert stats.kstest(sigmas, stats.uniform(0.5, 1).cdf).pvalue > 1e-3


def test_the_order_of_the_operations():
    augment = AugmentConfig(
        policy="ta_wide", jitter=(0.1, 0, 0, 0), grey=1.0, blur=1.0, lighting=0.1, rotate=5.0
    )
    found = [op.name for op in draw_operations(augment, 224, np.random.default_rng(0))]
    assert [found[0], *found[2:]] == ["affine", "brightness", "grey", "blur", "lighting"]
    assert found[1] in WIDE and draw_operations(AugmentConfig(), 224, None) == ()


def test_scale_jitter_draws_short_sides_and_offsets_uniformly():
    rng = np.random.default_rng(0)
    boxes = np.array([sample_scaled_crop(900, 1500, 30, (30, 45), rng) for _ in range(6000)])
    top, left, height, width = boxes.T
    assert (height == width).all()
    short = np.rint(30 * 900 / height).astype(int)
    assert set(short) == set(range(30, 46)) and is_uniform(Counter(short).values())
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 900).all() and (left + width <= 1500).all()
    inner = height < 900
    for start, room in ((top[inner], (900 - height)[inner]), (left, 1500 - width)):
        assert stats.kstest((start + 0.5) / (room + 1), "uniform").pvalue > 1e-3
