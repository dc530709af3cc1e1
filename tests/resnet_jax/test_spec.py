"""The spec: the plan of every block against the papers' tables."""

from dataclasses import FrozenInstanceError, replace

import pytest

from resnet_jax.plans import BlockPlan, ConvPlan
from resnet_jax.spec import ResNetSpec

R50 = ResNetSpec(depths=(3, 4, 6, 3))
BASIC = replace(R50, block="basic")
MIXED = ("basic", "basic", "bottleneck", "basic")


def test_specs_are_values():
    assert replace(R50) == R50 and hash(replace(R50)) == hash(R50)
    assert replace(R50, preact=True) != R50
    with pytest.raises(FrozenInstanceError):
        R50.width = 32


def test_a_list_of_depths_is_the_same_spec_as_a_tuple():
    spec = ResNetSpec(depths=[3, 4, 6, 3])  # as JSON gives them
    assert spec == R50 and hash(spec) == hash(R50)


def test_stems():
    assert R50.stem_convs() == (ConvPlan(7, 64, 2, 1),)
    deep = replace(R50, stem="deep")
    assert deep.stem_convs() == (ConvPlan(3, 32, 2), ConvPlan(3, 32, 1), ConvPlan(3, 64, 1))
    cifar = replace(R50, stem="3x3")
    assert replace(cifar, width=16).stem_convs() == (ConvPlan(3, 16, 1),)
    assert (R50.pool, deep.pool, cifar.pool) == ("max", "max", "none")
    assert (R50.image_size, deep.image_size, cifar.image_size) == (224, 224, 32)
    assert (R50.features, BASIC.features) == (2048, 512)


@pytest.mark.parametrize(
    ("stem", "widths"),
    [
        ("7x7", (128,)),
        ("3x3", (128,)),
        ("deep", (64, 64, 128)),
        ("tiered", (48, 64, 128)),  # timm: 3 * (64 // 4), 64
    ],
)
def test_a_stem_of_its_own_width(stem, widths):
    spec = replace(R50, stem=stem, stem_width=128)
    assert [conv.features for conv in spec.stem_convs()] == list(widths)
    assert (spec.stem_features, replace(spec, stem_width=None).stem_features) == (128, 64)
    # It widens nothing else; the first block projects what it is given.
    assert [plan.convs for plan in spec.blocks()] == [plan.convs for plan in R50.blocks()]
    narrow = list(replace(BASIC, stem=stem, stem_width=16).blocks())
    assert (narrow[0].shortcut, narrow[0].stride, narrow[1].shortcut) == ("conv", 1, "identity")


@pytest.mark.parametrize("pool", ["max", "zero_max", "conv", "fractional", "none"])
@pytest.mark.parametrize("stem", ["7x7", "3x3"])
def test_a_pool_that_is_asked_for_is_the_one_there_is(stem, pool):
    assert replace(R50, stem=stem, stem_pool=pool).pool == pool


@pytest.mark.parametrize(
    ("changes", "convs"),
    [
        ({"block": "basic"}, [(3, 128, 2, 1), (3, 128, 1, 1)]),
        ({}, [(1, 128, 1, 1), (3, 128, 2, 1), (1, 512, 1, 1)]),
        ({"stride_at": "1x1"}, [(1, 128, 2, 1), (3, 128, 1, 1), (1, 512, 1, 1)]),
        # ResNeXt-50 32x4d (arXiv:1611.05431, table 1) and wide_resnet50_2
        ({"groups": 32, "group_width": 4}, [(1, 256, 1, 1), (3, 256, 2, 32), (1, 512, 1, 1)]),
        ({"group_width": 128}, [(1, 256, 1, 1), (3, 256, 2, 1), (1, 512, 1, 1)]),
        # SENet-154 and a basic block: only the first convolution is narrower.
        ({"reduce_first": 2}, [(1, 64, 1, 1), (3, 128, 2, 1), (1, 512, 1, 1)]),
        ({"block": "basic", "reduce_first": 4}, [(3, 32, 2, 1), (3, 128, 1, 1)]),
        ({"stage_widths": (64, 96, 64, 64)}, [(1, 96, 1, 1), (3, 96, 2, 1), (1, 384, 1, 1)]),
        ({"stage_blocks": MIXED}, [(3, 128, 2, 1), (3, 128, 1, 1)]),
        # The stride follows the 3x3, wherever it is without a filter.
        ({"anti_alias": "avg"}, [(1, 128), (3, 128, 1, 1, 1, 2), (1, 512)]),
        ({"anti_alias": "blur", "block": "basic"}, [(3, 128, 1, 1, 1, 2), (3, 128)]),
        ({"anti_alias": "blur", "stride_at": "1x1"}, [(1, 128), (3, 128, 1, 1, 1, 2), (1, 512)]),
    ],
)
def test_branch(changes, convs):
    assert list(replace(R50, **changes).branch(1, 2, (1, 1))) == [ConvPlan(*conv) for conv in convs]


@pytest.mark.parametrize(
    ("changes", "dilations", "convs"),
    [
        ({}, (1, 2), [(1, 128), (3, 128, 1, 1, 1), (1, 512)]),
        ({}, (2, 2), [(1, 128), (3, 128, 1, 1, 2), (1, 512)]),
        ({"block": "basic"}, (2, 4), [(3, 128, 1, 1, 2), (3, 128, 1, 1, 4)]),
        # A stage that would have strided still blurs, at stride 1; its later blocks do not.
        ({"anti_alias": "blur"}, (1, 2), [(1, 128), (3, 128, 1, 1, 1, 1), (1, 512)]),
        ({"anti_alias": "blur"}, (2, 2), [(1, 128), (3, 128, 1, 1, 2, 0), (1, 512)]),
    ],
)
def test_branch_that_dilates(changes, dilations, convs):
    branch = replace(R50, **changes).branch(1, 1, dilations)
    assert list(branch) == [ConvPlan(*conv) for conv in convs]


def test_blocks_of_resnet50():
    plans = list(R50.blocks())
    assert [plan.stage for plan in plans] == [1] * 3 + [2] * 4 + [3] * 6 + [4] * 3
    assert [plan.width for plan in plans] == [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3
    assert [plan.features for plan in plans] == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    strides = [i for i, plan in enumerate(plans) if plan.stride == 2]
    assert strides == [3, 7, 13] and {plan.stride for plan in plans} == {1, 2}
    assert {plan.dilation for plan in plans} == {1}
    convs = (ConvPlan(1, 128), ConvPlan(3, 128, 2), ConvPlan(1, 512))
    assert plans[3] == BlockPlan(2, 128, 2, 1, convs, "conv", ConvPlan(1, 512, 2), 0)


def firsts(spec: ResNetSpec) -> list[BlockPlan]:
    """The first block of each stage."""
    plans = list(spec.blocks())
    return [plan for i, plan in enumerate(plans) if i == 0 or plan.stage != plans[i - 1].stage]


def middles(plans: list[BlockPlan]) -> list[tuple[int, int, int]]:
    """(stride, dilation, blur) of each bottleneck's 3x3."""
    return [(conv.stride, conv.dilation, conv.blur) for _, conv, _ in (p.convs for p in plans)]


@pytest.mark.parametrize(
    ("output_stride", "first", "rest"),
    [
        # Chen 2017, 3.1: the rate doubles where the stride is taken away, from the next block on.
        (32, [(1, 1), (2, 1), (2, 1), (2, 1)], [1, 1, 1, 1]),
        (16, [(1, 1), (2, 1), (2, 1), (1, 1)], [1, 1, 1, 2]),
        (8, [(1, 1), (2, 1), (1, 1), (1, 2)], [1, 1, 2, 4]),
    ],
)
def test_output_stride(output_stride, first, rest):
    spec = replace(R50, output_stride=output_stride, shortcut_kernel=3)
    plans, starts = list(spec.blocks()), firsts(spec)
    assert [middle[:2] for middle in middles(starts)] == first
    later = {p.stage: middle for p, middle in zip(plans, middles(plans), strict=True)}
    assert later == {i + 1: (1, dilation, 0) for i, dilation in enumerate(rest)}
    assert [p.stride for p in starts] == [stride for stride, _ in first]
    assert [p.dilation for p in starts] == rest
    # Every first block widens, so that all project; a 1x1 projection has nothing to dilate.
    assert {p.shortcut for p in starts} == {"conv"}
    for plan, (stride, dilation), after in zip(starts, first, rest, strict=True):
        wide = stride == 2 or after > 1
        expected = ConvPlan(3 if wide else 1, plan.features, stride, 1, dilation if wide else 1)
        assert plan.projection == expected
        small = firsts(replace(spec, shortcut_kernel=1))[plan.stage - 1].projection
        assert small == ConvPlan(1, plan.features, stride)
        pooled = firsts(replace(spec, avg_down=True, shortcut_kernel=1))[plan.stage - 1].projection
        assert pooled == ConvPlan(1, plan.features, 1)


@pytest.mark.parametrize(
    ("changes", "strides", "dilations"),
    [
        # From 1: 1, 2, 4, 8 and no further.
        ({"stem": "3x3", "output_stride": 8}, [1, 2, 2, 2, 1], [1, 1, 1, 1, 2]),
        ({"stem": "3x3", "output_stride": 16}, [1, 2, 2, 2, 2], [1, 1, 1, 1, 1]),
        ({"stem": "3x3", "stem_pool": "max", "output_stride": 8}, [1, 2, 2, 1, 1], [1, 1, 1, 2, 4]),
        ({"stem_pool": "none", "output_stride": 8}, [1, 2, 2, 1, 1], [1, 1, 1, 2, 4]),
        ({"stem_pool": "conv", "output_stride": 8}, [1, 2, 1, 1, 1], [1, 1, 2, 4, 8]),
        # A fifth stage is at 64: the default is 32 for no more than to be the default.
        ({"output_stride": 32}, [1, 2, 2, 2, 2], [1, 1, 1, 1, 1]),
    ],
)
def test_output_stride_counts_from_the_stem(changes, strides, dilations):
    starts = firsts(replace(R50, depths=(1, 1, 1, 1, 1), **changes))
    assert [plan.stride for plan in starts] == strides
    assert [plan.dilation for plan in starts] == dilations


@pytest.mark.parametrize("kind", ["avg", "blur"])
def test_anti_aliasing_takes_the_strides(kind):
    spec = replace(R50, anti_alias=kind)
    assert middles(firsts(spec)) == [(1, 1, 0), (1, 1, 2), (1, 1, 2), (1, 1, 2)]
    plans = list(spec.blocks())
    assert sum(conv.blur for plan in plans for conv in plan.convs) == 6
    assert {conv.stride for plan in plans for conv in plan.convs} == {1}
    assert [plan.stride for plan in plans] == [plan.stride for plan in R50.blocks()]
    dilated = firsts(replace(spec, output_stride=8))
    assert middles(dilated) == [(1, 1, 0), (1, 1, 2), (1, 1, 1), (1, 2, 1)]


def test_stages_of_their_own_blocks_and_widths():
    spec = ResNetSpec((1, 2, 1, 1), stage_blocks=MIXED, stage_widths=(32, 48, 48, 96))
    plans = list(spec.blocks())
    assert [plan.features for plan in plans] == [32, 48, 48, 192, 96]
    assert [len(plan.convs) for plan in plans] == [2, 2, 2, 3, 2]
    assert [plan.width for plan in plans] == [32, 48, 48, 48, 96]
    assert [plan.shortcut for plan in plans] == ["conv", "conv", "identity", "conv", "conv"]
    assert (spec.features, replace(spec, stage_blocks=("bottleneck",) * 4).features) == (96, 384)


@pytest.mark.parametrize(
    ("depths", "rates"),
    [((1, 2, 1, 2), [0, 0, 0, 0.1, 0.4, 0.4]), ((2, 1), [0.1, 0.1, 0.4]), ((2,), [0.4, 0.4])],
)
def test_drop_block_acts_in_the_last_two_stages(depths, rates):
    """Ghiasi 2018, section 4.1: groups 3 and 4; timm gives the former a quarter of the rate."""
    spec = ResNetSpec(depths, drop_block=0.4)
    assert [plan.drop_block for plan in spec.blocks()] == pytest.approx(rates)
    assert {plan.drop_block for plan in replace(spec, drop_block=0).blocks()} == {0}


@pytest.mark.parametrize(
    ("block", "shortcut", "expected"),
    [
        # The first bottleneck widens 64 to 256; the first basic block changes nothing.
        ("bottleneck", "A", ["pad", "identity", "pad", "identity"]),
        ("bottleneck", "B", ["conv", "identity", "conv", "identity"]),
        ("bottleneck", "C", ["conv"] * 4),
        ("bottleneck", "none", ["none"] * 4),
        ("basic", "A", ["identity", "identity", "pad", "identity"]),
        ("basic", "B", ["identity", "identity", "conv", "identity"]),
        ("basic", "C", ["conv"] * 4),
        ("basic", "none", ["none"] * 4),
    ],
)
def test_shortcuts(block, shortcut, expected):
    spec = ResNetSpec(depths=(2, 2), block=block, shortcut=shortcut)
    assert [plan.shortcut for plan in spec.blocks()] == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shortcut_kernel": 3, "shortcut": "A"}, ["shortcut_kernel", "'A'", "'B', 'C'"]),
        ({"block": "basic", "shortcut": "A", "stem_width": 80}, ["'A'", "80", "64", "'B'"]),
    ],
)
def test_options_that_would_mean_nothing(changes, words):
    with pytest.raises(ValueError) as error:
        replace(R50, **changes)
    assert all(word in str(error.value) for word in words), str(error.value)
