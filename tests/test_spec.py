"""The spec: what it refuses, and the plan of every block against the papers' tables."""

import math
from dataclasses import FrozenInstanceError, replace

import pytest

from resnet_jax.spec import BlockPlan, ConvPlan, LeNetSpec, ResNetSpec

R50 = ResNetSpec(depths=(3, 4, 6, 3))
BASIC = replace(R50, block="basic")
MIXED = ("basic", "basic", "bottleneck", "basic")
ACTIVATIONS = "'relu', 'leaky_relu', 'elu', 'selu', 'gelu', 'silu', 'tanh', 'sigmoid', 'hard_swish'"


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("block", "botleneck", "'basic', 'bottleneck'"),
        ("stem", "5x5", "'7x7', 'deep', 'tiered', '3x3'"),
        ("stem_pool", "avg", "'auto', 'max', 'zero_max', 'conv', 'fractional', 'none'"),
        ("stride_at", "7x7", "'1x1', '3x3'"),
        ("shortcut", "D", "'A', 'B', 'C', 'none'"),
        ("shortcut", None, "'A', 'B', 'C', 'none'"),
        ("kernel_init", "he", "'kaiming_normal', 'xavier_uniform', 'small_normal', 'zeros'"),
        ("anti_alias", True, "'none', 'avg', 'blur'"),
        ("activation", "swish", ACTIVATIONS),
        ("attention", "cbam", "'none', 'se', 'eca'"),
        ("norm", "layer", "'batch', 'group'"),
        ("output_stride", 4, "32, 16, 8"),
    ],
)
def test_unknown_choice_names_field_value_and_choices(field, value, choices):
    with pytest.raises(ValueError) as error:
        replace(R50, **{field: value})
    assert str(error.value) == f"{field} {value!r}: choose from {choices}"


def test_unknown_block_of_a_stage_names_the_choices():
    with pytest.raises(ValueError, match=r"^stage_blocks \('basic', 'wide'\): .*, 'bottleneck'$"):
        ResNetSpec(depths=(1, 1), stage_blocks=("basic", "wide"))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("depths", (), "needs one positive number a stage"),
        ("depths", (3, 0, 3), "needs one positive number a stage"),
        ("width", 0, "must be at least 1"),
        ("groups", 0, "must be at least 1"),
        ("group_width", -4, "must be at least 1"),
        ("drop_path", 1.0, "must be in [0, 1)"),
        ("drop_path", -0.1, "must be in [0, 1)"),
        ("dropout", 1.0, "must be in [0, 1)"),
        ("dropout", math.nan, "must be in [0, 1)"),
        ("norm_momentum", 1.0, "must be in [0, 1)"),
        ("norm_momentum", -0.1, "must be in [0, 1)"),
        ("norm_epsilon", 0.0, "must be positive"),
        ("reduce_first", 0, "must be at least 1"),
        ("stem_width", 0, "must be at least 1"),
        ("shortcut_kernel", 0, "must be at least 1"),
        ("shortcut_kernel", 2, "must be odd"),
        ("norm_groups", 0, "must be at least 1"),
        ("drop_block_size", 0, "must be at least 1"),
        ("drop_block", 1.0, "must be in [0, 1)"),
        ("block_dropout", 1.0, "must be in [0, 1)"),
        ("drop_connect", 1.0, "must be in [0, 1)"),
        ("drop_connect", math.nan, "must be in [0, 1)"),
        ("se_ratio", 0.0, "must be in (0, 1]"),
        ("se_ratio", 1.01, "must be in (0, 1]"),
        ("se_ratio", math.nan, "must be in (0, 1]"),
        ("stage_blocks", ("basic",) * 3, "needs one for each of 4 stages, or none"),
        ("stage_widths", (64,) * 5, "needs one for each of 4 stages, or none"),
        ("stage_widths", (64, 64, 0, 64), "each must be at least 1"),
    ],
)
def test_value_out_of_range_names_field_value_and_rule(field, value, rule):
    with pytest.raises(ValueError) as error:
        replace(R50, **{field: value})
    assert str(error.value) == f"{field} {value}: {rule}"


@pytest.mark.parametrize(
    ("spec", "changes", "named"),
    [
        (BASIC, {"groups": 2}, ["groups 2 x 64", "basic", "'bottleneck'"]),
        (BASIC, {"group_width": 4}, ["groups 1 x 4", "basic", "'bottleneck'"]),
        (BASIC, {"stride_at": "1x1"}, ["stride_at '1x1'", "basic", "'3x3'"]),
        (R50, {"avg_down": True, "shortcut": "A"}, ["avg_down", "'A'", "'B', 'C'"]),
        (R50, {"avg_down": True, "shortcut": "none"}, ["avg_down", "'none'", "'B', 'C'"]),
        (R50, {"stage_blocks": MIXED, "groups": 2}, ["groups 2 x 64", "basic", "'bottleneck'"]),
        (R50, {"stage_blocks": MIXED, "stride_at": "1x1"}, ["'1x1'", "basic", "'3x3'"]),
        # A stage's branches of 64 * 4 // 64 * 32 = 128 channels, of which 42 do not make 32 groups
        (R50, {"groups": 32, "group_width": 4, "reduce_first": 3}, ["reduce_first 3", "42", "32"]),
        (R50, {"norm": "group", "norm_groups": 48}, ["norm_groups 48", "64 channels"]),
        (R50, {"norm": "group", "stem": "deep", "width": 32}, ["norm_groups 32", "16 channels"]),
        (R50, {"norm": "group", "stem_width": 100}, ["norm_groups 32", "100 channels"]),
        (R50, {"norm": "group", "reduce_first": 4}, ["norm_groups 32", "16 channels"]),
    ],
)
def test_options_that_contradict_each_other(spec, changes, named):
    with pytest.raises(ValueError) as error:
        replace(spec, **changes)
    assert [part for part in named if part not in str(error.value)] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"drop_path": 0.0, "dropout": 0.0, "norm_momentum": 0.0},
        {"drop_path": 0.99, "dropout": 0.99, "norm_momentum": 0.999},
        {"avg_down": True, "shortcut": "C"},
        {"avg_down": True, "block": "basic"},
        {"groups": 32, "group_width": 4, "stride_at": "1x1"},
        {"se_ratio": 1, "drop_block": 0.99, "block_dropout": 0.99, "drop_connect": 0.99},
        {"drop_block_size": 1, "shortcut_kernel": 1, "stem_width": 1, "reduce_first": 64},
        {"stage_blocks": MIXED, "stage_widths": (32, 48, 48, 96)},
        {"norm": "group", "norm_groups": 64},
        {"stem": "tiered", "stem_width": 3},
        {"stem": "deep", "stem_width": 2},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(changes):
    spec = replace(R50, **changes)
    assert {field: getattr(spec, field) for field in changes} == changes


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "deep", "width": 1},  # half of it, for the first two convolutions, is nothing
        {"stem": "deep", "stem_width": 1},
        {"stem": "tiered", "stem_width": 2},  # 3 * 2 // 8
        {"width": 16, "group_width": 1},  # 16 * 1 // 64
        {"stage_widths": (64, 64, 8, 64), "group_width": 4},  # 8 * 4 // 64
        {"reduce_first": 65},
        {"block": "basic", "width": 4, "reduce_first": 5},
    ],
)
def test_a_network_with_empty_layers_is_refused(changes):
    with pytest.raises(ValueError) as error:
        replace(R50, **changes)
    assert any(field in str(error.value) for field in changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "swish"}, f"activation 'swish': choose from {ACTIVATIONS}"),
        ({"dropout": 1.0}, "dropout 1.0: must be in [0, 1)"),
        ({"drop_connect": -0.1}, "drop_connect -0.1: must be in [0, 1)"),
    ],
)
def test_lenet_refuses_what_it_cannot_be(changes, message):
    with pytest.raises(ValueError) as error:
        LeNetSpec(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize("epsilon", [math.nan, math.inf])
def test_norm_epsilon_is_a_finite_number(epsilon):
    with pytest.raises(ValueError, match="norm_epsilon"):
        replace(R50, norm_epsilon=epsilon)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("width", "64"), ("depths", 3), ("depths", (1.5, 2)), ("drop_path", None)),
        *(("preact", "no"), ("stem_width", "64"), ("stage_widths", (64.0,) * 4)),
    ],
)
def test_a_value_of_the_wrong_type_names_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        replace(R50, **{field: value})


def test_a_drop_path_without_a_path_to_drop_is_refused():
    with pytest.raises(ValueError, match="drop_path"):
        replace(R50, shortcut="none", drop_path=0.1)


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
        # The stride is taken behind the 3x3, wherever it would be without.
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
