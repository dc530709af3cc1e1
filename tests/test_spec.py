"""The spec: what it refuses, and the plan of every block against the papers' tables."""

import math
from dataclasses import FrozenInstanceError, replace

import pytest

from resnet_jax.spec import BlockPlan, ConvPlan, ResNetSpec

R50 = ResNetSpec(depths=(3, 4, 6, 3))
BASIC = replace(R50, block="basic")


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("block", "botleneck", "'basic', 'bottleneck'"),
        ("stem", "5x5", "'7x7', 'deep', '3x3'"),
        ("stride_at", "7x7", "'1x1', '3x3'"),
        ("shortcut", "D", "'A', 'B', 'C', 'none'"),
        ("shortcut", None, "'A', 'B', 'C', 'none'"),
        ("kernel_init", "he", "'kaiming_normal', 'xavier_uniform', 'small_normal', 'zeros'"),
    ],
)
def test_unknown_choice_names_field_value_and_choices(field, value, choices):
    with pytest.raises(ValueError) as error:
        replace(R50, **{field: value})
    assert str(error.value) == f"{field} {value!r}: choose from {choices}"


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
    ],
)
def test_the_ends_of_the_ranges_are_allowed(changes):
    spec = replace(R50, **changes)
    assert {field: getattr(spec, field) for field in changes} == changes


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "deep", "width": 1},  # half of it, for the first two convolutions, is nothing
        {"width": 16, "group_width": 1},  # 16 * 1 // 64
    ],
)
def test_a_network_with_empty_layers_is_refused(changes):
    with pytest.raises(ValueError):
        replace(R50, **changes)


@pytest.mark.parametrize("epsilon", [math.nan, math.inf])
def test_norm_epsilon_is_a_finite_number(epsilon):
    with pytest.raises(ValueError, match="norm_epsilon"):
        replace(R50, norm_epsilon=epsilon)


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", "64"), ("depths", 3), ("depths", (1.5, 2)), ("drop_path", None), ("preact", "no")],
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
    assert replace(R50, stem="3x3", width=16).stem_convs() == (ConvPlan(3, 16, 1),)
    assert (R50.stem_pool, deep.stem_pool, replace(R50, stem="3x3").stem_pool) == (1, 1, 0)
    assert (R50.image_size, deep.image_size, replace(R50, stem="3x3").image_size) == (224, 224, 32)


@pytest.mark.parametrize(
    ("changes", "convs"),
    [
        ({"block": "basic"}, [(3, 128, 2, 1), (3, 128, 1, 1)]),
        ({}, [(1, 128, 1, 1), (3, 128, 2, 1), (1, 512, 1, 1)]),
        ({"stride_at": "1x1"}, [(1, 128, 2, 1), (3, 128, 1, 1), (1, 512, 1, 1)]),
        # ResNeXt-50 32x4d (arXiv:1611.05431, table 1) and wide_resnet50_2
        (
            {"groups": 32, "group_width": 4},
            [(1, 256, 1, 1), (3, 256, 2, 32), (1, 512, 1, 1)],
        ),
        ({"group_width": 128}, [(1, 256, 1, 1), (3, 256, 2, 1), (1, 512, 1, 1)]),
    ],
)
def test_branch(changes, convs):
    assert list(replace(R50, **changes).branch(128, 2)) == [ConvPlan(*conv) for conv in convs]


def test_blocks_of_resnet50():
    plans = list(R50.blocks())
    assert [plan.stage for plan in plans] == [1] * 3 + [2] * 4 + [3] * 6 + [4] * 3
    assert [plan.width for plan in plans] == [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3
    assert [plan.features for plan in plans] == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    strides = [i for i, plan in enumerate(plans) if plan.stride == 2]
    assert strides == [3, 7, 13] and {plan.stride for plan in plans} == {1, 2}
    assert R50.features == 2048 and BASIC.features == 512
    assert plans[3] == BlockPlan(2, 128, 2, R50.branch(128, 2), "conv")


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
