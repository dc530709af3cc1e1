"""Names and specs; what the specs build is counted in test_summary.py."""

import re

import pytest

from resnet_jax.spec import LeNetSpec, ResNetSpec
from resnet_jax.zoo import IMAGE_SIZES, ZOO, get_spec, image_size, list_models, num_classes

DEPTHS = (18, 34, 50, 101, 152, 200)
BOTTLENECKS = (50, 101, 152, 200)
RESNETS = [name for name, spec in ZOO.items() if isinstance(spec, ResNetSpec)]
NAME = r"(?:wide_|se|eca)?(?:resnet|resnext|plain|wrn)(?:aa|blur|rs|v2_)?(\d+)[a-z0-9_]*"

# Names with another number than that of their layers, and the numbers of layers.
OTHER_DEPTHS = {
    # Zagoruyko 2016 counts the projections of two stages too.
    "wrn16_8_cifar": 16 - 2,
    "wrn28_10_cifar": 28 - 2,
    "wrn40_2_cifar": 40 - 2,
    # Hu 2018 counts all three convolutions of the stem.
    "senet154": 154 - 2,
    # Named in round numbers: 90, 139 and 67 blocks.
    "resnetrs270": 272,
    "resnetrs420": 419,
    "seresnextaa201d_32x8d": 203,
    # Without a number.
    "ecaresnetlight": 50,
    "test_resnet": 11,
}


def layers(spec: ResNetSpec) -> int:
    """Weighted layers as the papers count them: convolutions on the trunk and the classifier."""
    return 2 + sum(len(plan.convs) for plan in spec.blocks())


@pytest.mark.parametrize("name", [name for name in RESNETS if name not in OTHER_DEPTHS])
def test_a_name_says_how_many_layers_there_are(name):
    assert layers(ZOO[name]) == int(re.fullmatch(NAME, name)[1])


@pytest.mark.parametrize("name", list(OTHER_DEPTHS))
def test_a_name_that_says_something_else(name):
    assert layers(ZOO[name]) == OTHER_DEPTHS[name]
    assert f"{OTHER_DEPTHS[name]}" not in name


PLAIN_NAMES = [f"resnet{d}" for d in DEPTHS] + ["resnet26"] + [f"resnet{d}_v1" for d in BOTTLENECKS]
D_NAMES = [
    *(f"resnet{d}d" for d in (*DEPTHS, 26)),
    *(f"seresnet{d}d" for d in (152, 200, 269)),
    *(f"ecaresnet{d}d" for d in (50, 101, 200, 269)),
    *("resnetblur50d", "resnetblur101d", "resnetaa34d", "resnetaa50d", "resnetaa101d"),
    "seresnetaa50d",
    *(f"resnetv2_{d}d" for d in (18, 34, 50, 101, 152)),
]
V2_NAMES = [
    *(f"resnetv2_{d}" for d in DEPTHS),
    *(f"resnetv2_{d}d" for d in (18, 34, 50, 101, 152)),
    *("resnetv2_50t", "resnetv2_50d_gn"),
    *(
        f"resnetv2_{d}x{w}_bit"
        for d, w in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
    ),
    *(f"resnetv2_{d}_cifar" for d in (110, 164, 1001)),
]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet[0-9]*[0-9]", PLAIN_NAMES),
        ("*c", [f"resnet{d}c" for d in DEPTHS]),
        ("*[0-9]s", [f"resnet{d}s" for d in (50, 101, 152)]),
        ("*resnet*[0-9]d", D_NAMES),
        ("resnetv2_*", V2_NAMES),
        ("wrn*", ["wrn16_8_cifar", "wrn28_10_cifar", "wrn40_2_cifar"]),
        ("resnetrs*", [f"resnetrs{d}" for d in (50, 101, 152, 200, 270, 350, 420)]),
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
    assert len(ZOO) == len(set(ZOO)) == 129
    counts = {
        "*_cifar": 8 + 3 + 3 + 2 + 5,
        "se*": 5 + 1 + 3 + 2 + 1 + 2 + 1 + 1 + 1 + 3,
        "eca*": 2 + 4 + 1 + 2,
        "*resnext*": 2 + 5 + 9 + 2 + 2,
        "resnetv2_*": 6 + 5 + 2 + 6 + 3,
        "resnetrs*": 7,
        "resnet[ab][al]*": 4 + 4,
        "plain*": 2 + 5,
        "lenet5": 1,
    }
    assert {pattern: len(list_models(pattern)) for pattern in counts} == counts


LIGHT = {"depths": (1, 1, 11, 3), "attention": "eca", "avg_down": True}
SENET = {
    **{"stem": "deep", "stem_width": 128, "groups": 64, "group_width": 4},
    **{"reduce_first": 2, "shortcut_kernel": 3},
}
BIT = {
    "norm": "group",
    "weight_standardization": True,
    "stem_pool": "zero_max",
    "zero_gamma": False,
}


def difference(name: str, base: str) -> dict[str, object]:
    one, other = vars(ZOO[name]), vars(ZOO[base])
    return {field: value for field, value in one.items() if value != other[field]}


@pytest.mark.parametrize(
    ("name", "base", "changes"),
    [
        ("resnet50_v1", "resnet50", {"stride_at": "1x1"}),
        ("resnet152c", "resnet152", {"stem": "deep"}),
        ("resnet18d", "resnet18", {"stem": "deep", "avg_down": True}),
        ("resnet101s", "resnet101c", {"stem_width": 128}),
        ("resnet50t", "resnet50d", {"stem": "tiered"}),
        ("resnet50_gn", "resnet50", {"norm": "group"}),
        ("wide_resnet101_2", "resnet101", {"group_width": 128}),
        ("resnext101_64x4d", "resnet101", {"groups": 64, "group_width": 4}),
        ("seresnet34", "resnet34", {"attention": "se"}),
        ("ecaresnet50d", "resnet50d", {"attention": "eca"}),
        ("ecaresnetlight", "resnet50", LIGHT),
        ("resnetaa101d", "resnet101d", {"anti_alias": "avg"}),
        ("resnetblur18", "resnet18", {"anti_alias": "blur"}),
        ("resnetrs50", "resnet50d", {"attention": "se", "se_ratio": 0.25, "stem_pool": "conv"}),
        ("senet154", "seresnet152", SENET),
        ("resnetv2_50x3_bit", "resnetv2_50", {"width": 192} | BIT),
        ("resnetv2_152x4_bit", "resnetv2_152", {"width": 256} | BIT),
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


def test_networks_for_cifar_that_are_not_he_et_al():
    """Zagoruyko 2016, table 1; Xie 2017, section 5.3."""
    assert ZOO["wrn28_10_cifar"] == ResNetSpec(
        depths=(4, 4, 4), block="basic", width=160, stem="3x3", stem_width=16, preact=True
    )
    wrn = {name: ZOO[name] for name in list_models("wrn*")}
    assert {name: (spec.depths, spec.width) for name, spec in wrn.items()} == {
        "wrn16_8_cifar": ((2, 2, 2), 128),
        "wrn28_10_cifar": ((4, 4, 4), 160),
        "wrn40_2_cifar": ((6, 6, 6), 32),
    }
    for groups in (8, 16):
        assert ZOO[f"resnext29_{groups}x64d_cifar"] == ResNetSpec(
            depths=(3, 3, 3), stem="3x3", groups=groups, group_width=64
        )
    assert ZOO["lenet5"] == LeNetSpec(activation="tanh", dropout=0, drop_connect=0)


def test_image_size_and_classes_follow_the_data():
    for name in ZOO:
        small = name.endswith("_cifar") or name == "lenet5"
        assert num_classes(name) == (10 if small else 1000)
        if name not in IMAGE_SIZES:
            assert image_size(name) == (32 if small else 224)
    assert set(IMAGE_SIZES) <= set(ZOO) and not set(IMAGE_SIZES.values()) & {32, 224}
    # All that timm has: tests/parity
    published = {"resnet10t": 176, "resnetrs50": 160, "ecaresnet269d": 320, "test_resnet": 160}
    assert {name: image_size(name) for name in published} == published


@pytest.mark.parametrize("ask", [image_size, num_classes])
def test_size_and_classes_of_an_unknown_name(ask):
    with pytest.raises(ValueError, match="unknown model 'resnet51': did you mean"):
        ask("resnet51")


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


def test_lenet_has_few_options():
    spec = get_spec("lenet5", dropout=0.5, activation="relu")
    assert spec == LeNetSpec(activation="relu", dropout=0.5)
    with pytest.raises(ValueError) as error:
        get_spec("lenet5", width=64)
    assert str(error.value) == (
        "unknown option 'width' of model 'lenet5': choose from activation, activation_slope, "
        "head_std, head_bias, dropout, drop_connect"
    )


def test_a_bad_value_keeps_its_own_message():
    choices = "'7x7', 'deep', 'tiered', '3x3'"
    with pytest.raises(ValueError, match=f"^stem '5x5': choose from {choices}$"):
        get_spec("resnet50", stem="5x5")


@pytest.mark.parametrize(("field", "value"), [("width", "64"), ("depths", 3), ("drop_path", None)])
def test_a_value_of_the_wrong_type_is_a_value_error(field, value):
    with pytest.raises(ValueError, match=field):
        get_spec("resnet50", **{field: value})
