"""The spec: refused values and their messages."""

import math
from dataclasses import replace

import pytest

from resnet_jax.spec import LeNetSpec, ResNetSpec
from tests.resnet_jax.test_spec import BASIC, MIXED, R50

ACTIVATIONS = (
    "'relu', 'leaky_relu', 'prelu', 'elu', 'selu', 'gelu', 'silu', 'tanh', 'sigmoid', 'hard_swish'"
)
INITIALISERS = (
    "'kaiming_normal', 'kaiming_uniform', 'xavier_normal', 'xavier_uniform', 'normal', "
    "'small_normal', 'zeros'"
)


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("block", "botleneck", "'basic', 'bottleneck'"),
        ("stem", "5x5", "'7x7', 'deep', 'tiered', '3x3'"),
        ("stem_pool", "avg", "'auto', 'max', 'zero_max', 'conv', 'fractional', 'none'"),
        ("stride_at", "7x7", "'1x1', '3x3'"),
        ("shortcut", "D", "'A', 'B', 'C', 'none'"),
        ("shortcut", None, "'A', 'B', 'C', 'none'"),
        ("kernel_init", "he", INITIALISERS),
        ("kernel_fan", "avg", "'out', 'in'"),
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
        ("depths", (), "needs one positive number per stage"),
        ("depths", (3, 0, 3), "needs one positive number per stage"),
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
        ("kernel_std", -0.1, "must be at least 0"),
        ("head_std", math.inf, "must be at least 0"),
        ("head_bias", math.nan, "must be finite"),
        ("norm_bias", math.inf, "must be finite"),
        ("activation_slope", math.nan, "must be finite"),
        ("kernel_slope", math.inf, "must be finite"),
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
        ("stage_blocks", ("basic",) * 3, "needs one value for each of 4 stages, or no values"),
        ("stage_widths", (64,) * 5, "needs one value for each of 4 stages, or no values"),
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
