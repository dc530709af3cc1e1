"""Names and specs; what the specs build is counted in test_summary.py."""

import re

import pytest

from resnet_jax.spec import ResNetSpec
from resnet_jax.zoo import ZOO, get_spec, list_models

DEPTHS = (18, 34, 50, 101, 152, 200)
BOTTLENECKS = (50, 101, 152, 200)
NAME = r"(?:resnet|resnetv2_|plain)(\d+)(?:c|d|_v1|_cifar)?"


def layers(spec: ResNetSpec) -> int:
    """Weighted layers as the papers count them: convolutions on the trunk and the classifier."""
    return 2 + sum(len(plan.convs) for plan in spec.blocks())


@pytest.mark.parametrize("name", list(ZOO))
def test_a_name_says_how_many_layers_there_are(name):
    assert layers(ZOO[name]) == int(re.fullmatch(NAME, name)[1])


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (
            "resnet[0-9]*[0-9]",
            [f"resnet{d}" for d in DEPTHS] + [f"resnet{d}_v1" for d in BOTTLENECKS],
        ),
        ("*c", [f"resnet{d}c" for d in DEPTHS]),
        ("*d", [f"resnet{d}d" for d in DEPTHS]),
        (
            "resnetv2_*",
            [f"resnetv2_{d}" for d in DEPTHS] + [f"resnetv2_{d}_cifar" for d in (110, 164, 1001)],
        ),
        ("resnet[0-9]*_cifar", [f"resnet{d}_cifar" for d in (8, 14, 20, 32, 44, 56, 110, 1202)]),
        (
            "plain*",
            ["plain18", "plain34", *(f"plain{d}_cifar" for d in (20, 32, 44, 56, 110))],
        ),
        ("nothing*", []),
    ],
)
def test_list_models(pattern, names):
    assert list_models(pattern) == names


def test_list_models_without_a_pattern_lists_all():
    assert list_models() == list(ZOO)
    assert len(ZOO) == 6 + 4 + 6 + 6 + 6 + 8 + 3 + 7


def difference(name: str, base: str) -> dict[str, object]:
    one, other = vars(ZOO[name]), vars(ZOO[base])
    return {field: value for field, value in one.items() if value != other[field]}


@pytest.mark.parametrize(
    ("name", "base", "changes"),
    [
        ("resnet50_v1", "resnet50", {"stride_at": "1x1"}),
        ("resnet152c", "resnet152", {"stem": "deep"}),
        ("resnet18d", "resnet18", {"stem": "deep", "avg_down": True}),
        ("resnetv2_34", "resnet34", {"preact": True}),
        ("resnetv2_110_cifar", "resnet110_cifar", {"preact": True}),
        ("plain34", "resnet34", {"shortcut": "none"}),
        ("plain56_cifar", "resnet56_cifar", {"shortcut": "none"}),
    ],
)
def test_a_variant_is_one_line_of_difference(name, base, changes):
    assert difference(name, base) == changes


def test_defaults_of_the_plain_names():
    assert ZOO["resnet50"] == ResNetSpec(
        depths=(3, 4, 6, 3),
        block="bottleneck",
        width=64,
        stem="7x7",
        stride_at="3x3",
        shortcut="B",
        zero_gamma=True,
        kernel_init="kaiming_normal",
        norm_momentum=0.9,
        norm_epsilon=1e-5,
        drop_path=0.0,
        dropout=0.0,
    )
    assert ZOO["resnet20_cifar"] == ResNetSpec(
        depths=(3, 3, 3), block="basic", width=16, stem="3x3", shortcut="A"
    )
    assert ZOO["resnetv2_164_cifar"] == ResNetSpec(
        depths=(18, 18, 18), block="bottleneck", width=16, stem="3x3", shortcut="B", preact=True
    )


def test_get_spec_changes_fields_and_leaves_the_zoo_alone():
    before = ZOO["resnet50"]
    spec = get_spec("resnet50", drop_path=0.2, width=32)
    assert (spec.drop_path, spec.width, spec.depths) == (0.2, 32, (3, 4, 6, 3))
    assert ZOO["resnet50"] is before and before.drop_path == 0


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet51", "resnet50"), ("resnet-50d", "resnet50d"), ("ResNet18", "resnet18")],
)
def test_an_unknown_name_gets_the_nearest_names(name, near):
    with pytest.raises(ValueError) as error:
        get_spec(name)
    message = str(error.value)
    assert message.startswith(f"unknown model {name!r}: did you mean ")
    listed = message.split("did you mean ")[1].split("?")[0].split(", ")
    assert near in listed and set(listed) <= set(ZOO) and len(listed) <= 5
    assert f"lists all {len(ZOO)}" in message


def test_a_name_like_no_other_still_gets_some_valid_ones():
    with pytest.raises(ValueError, match=r"'qqq': did you mean resnet18, resnet34, .*\?"):
        get_spec("qqq")


def test_an_unknown_option_lists_the_options():
    with pytest.raises(ValueError) as error:
        get_spec("resnet50", stride="1x1")
    message = str(error.value)
    assert message.startswith("unknown option 'stride' of model 'resnet50': choose from depths, ")
    assert message.split("choose from ")[1].split(", ") == list(vars(ZOO["resnet50"]))


def test_a_bad_value_keeps_its_own_message():
    with pytest.raises(ValueError, match=r"^stem '5x5': choose from '7x7', 'deep', '3x3'$"):
        get_spec("resnet50", stem="5x5")


@pytest.mark.parametrize(("field", "value"), [("width", "64"), ("depths", 3), ("drop_path", None)])
def test_a_value_of_the_wrong_type_is_a_value_error(field, value):
    with pytest.raises(ValueError, match=field):
        get_spec("resnet50", **{field: value})
