"""Exact parameter counts and multiply-adds of every name, and where they come from."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.heads.classifier import classifier
from resnet_jax.spec import LeNetSpec, ResNetSpec, Spec
from resnet_jax.summary import Layer, groups, summarise, totals
from resnet_jax.zoo import ZOO, num_classes

PARAMETERS = {
    # torchvision 0.20 (resnet18 .. resnet152); timm 1.0 gives the rest in millions, see MILLIONS
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet50_v1": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet50c": 25_576_264,
    "resnet50d": 25_576_264,
    "resnetv2_50": 25_549_352,
    # He 2016a, table 6: 0.27, 0.46, 0.66, 0.85, 1.7 and 19.4 million
    "resnet20_cifar": 269_722,
    "resnet32_cifar": 464_154,
    "resnet44_cifar": 658_586,
    "resnet56_cifar": 853_018,
    "resnet110_cifar": 1_727_962,
    "resnet1202_cifar": 19_421_274,
    "plain20_cifar": 269_722,
    # As others build them in torch and Keras: 36.5, 11.0 and 2.2 million (Zagoruyko 2016, tables
    # 4 and 5), 34.4 and 68.1 (Xie 2017, table 7)
    "wrn28_10_cifar": 36_479_194,
    "wrn16_8_cifar": 10_961_370,
    "wrn40_2_cifar": 2_243_546,
    "resnext29_8x64d_cifar": 34_426_698,
    "resnext29_16x64d_cifar": 68_155_210,
}
MILLIONS = {
    "resnet200": 64.67,
    "resnet101c": 44.57,
    "resnet152c": 60.21,
    "resnet101d": 44.57,
    "resnet152d": 60.21,
    "resnet200d": 64.69,
    "resnetv2_101": 44.54,
    "resnetv2_152": 60.19,
    # He 2016b, tables 4 and 5
    "resnetv2_164_cifar": 1.70,
    "resnetv2_1001_cifar": 10.33,
}
GIGA = {  # multiply-adds, as the papers and torchvision publish them; He 2016a has 3.8 for v1
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet50_v1": 3.858,
    "resnet101": 7.801,
    "resnet152": 11.514,
    "resnet20_cifar": 0.041,
    "resnet56_cifar": 0.125,
    "resnet110_cifar": 0.253,
}


@functools.cache
def layers_of(name: str) -> dict[str, Layer]:
    return {layer.path: layer for layer in summarise(ZOO[name], num_classes(name))}


def counts(name: str) -> tuple[int, int, int]:
    return totals(list(layers_of(name).values()))


@functools.cache
def sizes(spec: Spec, num_classes: int) -> dict[str, int]:
    """Floats of each collection of a classifier's variables."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    init = functools.partial(classifier(spec, num_classes).init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), x)
    return {name: size(tree) for name, tree in variables.items()}


def size(tree: dict) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def cut(spec: Spec) -> Spec:
    """Stages of three blocks at most: the third is the first that a summary does not trace."""
    if isinstance(spec, LeNetSpec):
        return spec
    return replace(spec, depths=tuple(min(depth, 3) for depth in spec.depths))


SHORT = {cut(spec): name for name, spec in reversed(ZOO.items())}  # and the first name of each


@pytest.mark.parametrize("spec", list(SHORT), ids=list(SHORT.values()))
def test_counts_are_those_of_the_variables(spec):
    """Block for block, of every name, as deep as it takes."""
    parameters, _, statistics = totals(summarise(spec, 10, image_size=32))
    found = sizes(spec, 10)
    assert (parameters, statistics) == (found.pop("params"), found.pop("batch_stats", 0))
    assert not found


@pytest.mark.parametrize("name", ["resnet101", "resnet44_cifar"])
def test_counts_of_a_deep_network_are_those_of_its_variables(name):
    found = sizes(ZOO[name], num_classes(name))
    assert counts(name)[::2] == (found["params"], found["batch_stats"])


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_parameters(name):
    assert counts(name)[0] == PARAMETERS[name]


@pytest.mark.parametrize("name", list(MILLIONS))
def test_parameters_as_published(name):
    assert round(counts(name)[0] / 1e6, 2) == MILLIONS[name]


@pytest.mark.parametrize("name", list(GIGA))
def test_multiply_adds_as_published(name):
    assert round(counts(name)[1] / 1e9, 3) == GIGA[name]


def test_a_variant_costs_what_its_paper_says():
    """He 2019, table 2: B, C and D add 0.2, 0.2 and 0 GFLOPs (D moves an average, no multiply)."""
    assert counts("resnet50")[1] - counts("resnet50_v1")[1] == 231_211_008
    assert counts("resnet50d")[1] == counts("resnet50c")[1]
    assert counts("resnet50c")[1] - counts("resnet50")[1] == 239_640_576


def wide_parameters(depth: int, factor: int) -> int:
    """Zagoruyko 2016, table 1: BN-ReLU-conv, projections where the width changes, ten classes."""
    total, before = 9 * 3 * 16, 16
    for width in (16 * factor, 32 * factor, 64 * factor):
        blocks = (depth - 4) // 6
        total += 2 * before + 9 * before * width + before * width  # the first: norm1, conv1, way
        total += (blocks - 1) * (2 * width + 9 * width**2)  # the others' norm1, conv1
        total += blocks * (2 * width + 9 * width**2)  # norm2, conv2
        before = width
    return total + 2 * before + (before + 1) * 10


def next_parameters(groups: int) -> int:
    """Xie 2017, 5.3: three stages of three blocks, 1x1 to 64 * groups, 3x3 grouped, 1x1 to 256."""
    total, before = 9 * 3 * 64 + 2 * 64, 64
    for stage in range(3):
        inner, after = 64 * groups * 2**stage, 256 * 2**stage
        for block in range(3):
            total += before * inner + 9 * inner * inner // groups + inner * after
            total += 2 * inner + 2 * inner + 2 * after
            total += before * after + 2 * after if block == 0 else 0
            before = after
    return total + (before + 1) * 10


@pytest.mark.parametrize(("depth", "factor"), [(28, 10), (16, 8), (40, 2)])
def test_parameters_of_wide_networks_in_closed_form(depth, factor):
    name = f"wrn{depth}_{factor}_cifar"
    assert counts(name)[0] == PARAMETERS[name] == wide_parameters(depth, factor)


@pytest.mark.parametrize(("groups", "millions"), [(8, 34.4), (16, 68.1)])
def test_parameters_of_resnext_29_in_closed_form(groups, millions):
    name = f"resnext29_{groups}x64d_cifar"
    assert counts(name)[0] == PARAMETERS[name] == next_parameters(groups)
    assert counts(name)[0] // 10**5 / 10 == millions  # the paper cuts off


def test_parameters_of_lenet():
    """LeCun 1998, II.B: C5 has 48,120 and F6 10,164; 156, 2,416 and 850 make up the rest."""

    def of(channels):
        x = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
        init = functools.partial(classifier(ZOO["lenet5"], 10).init, train=False)
        return {
            path: size(tree)
            for path, tree in jax.eval_shape(init, jax.random.key(0), x)["params"].items()
        }

    assert of(1) == {"backbone": 156 + 2_416 + 48_120 + 10_164, "head": 850}
    assert sum(of(1).values()) == 61_706
    assert counts("lenet5") == (
        61_706 + 2 * 25 * 6,
        28 * 28 * 450 + 100 * 2_400 + 48_000 + 10_080 + 840,
        0,
    )


def test_lenet_layer_by_layer():
    rows = [
        (layer.path, layer.kind, layer.output, layer.parameters, layer.multiply_adds)
        for layer in summarise(ZOO["lenet5"], 10)
    ]
    assert rows == [
        ("backbone/conv1", "5x5", (28, 28, 6), 456, 28 * 28 * 450),
        ("backbone/conv2", "5x5", (10, 10, 16), 2_416, 10 * 10 * 2_400),
        ("backbone/conv3", "5x5", (1, 1, 120), 48_120, 48_000),
        ("backbone/conv4", "1x1", (1, 1, 84), 10_164, 10_080),
        ("head", "dense", (10,), 850, 840),
    ]
    found = {group: len(layers) for group, layers in groups(summarise(ZOO["lenet5"], 10))}
    assert found == {"conv1": 1, "conv2": 1, "conv3": 1, "conv4": 1, "head": 1}


@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "wrn16_8_cifar"])
def test_a_head_for_imagenet_21k(name):
    """21,843 classes, as BiT's; nothing else grows with them."""
    wide, spec = totals(summarise(ZOO[name], 21_843))[0], ZOO[name]
    assert wide - totals(summarise(spec, 1_000))[0] == (spec.features + 1) * (21_843 - 1_000)
    if "bit" in name:
        assert wide == 25_549_352 + 2_049 * 20_843 == 68_256_659  # timm: 68.3 million


def test_attention():
    """Hu 2018, 6.1: 2 / r * C^2 more for each block, with biases C + C / r."""
    layers = layers_of("seresnet50")
    for stage, channels in enumerate((256, 512, 1024, 2048), start=1):
        squeezed = channels // 16
        first, second = (layers[f"backbone/stage{stage}/block2/se/fc{i}"] for i in (1, 2))
        assert (first.kind, first.output) == ("dense", (1, 1, squeezed))
        assert (first.parameters, first.multiply_adds) == (
            (channels + 1) * squeezed,
            channels * squeezed,
        )
        assert (second.output, second.multiply_adds) == ((1, 1, channels), channels * squeezed)
        assert second.parameters == (squeezed + 1) * channels
        assert first.repeats == second.repeats == (3, 4, 6, 3)[stage - 1] - 1
    more = sum(
        depth * (2 * c * (c // 16) + c + c // 16)
        for depth, c in zip((3, 4, 6, 3), (256, 512, 1024, 2048), strict=True)
    )
    assert counts("seresnet50")[0] - counts("resnet50")[0] == more == 2_530_992


def test_efficient_attention_has_a_kernel_of_a_few_weights():
    layers = layers_of("ecaresnet50d")
    kernels = {256: 5, 512: 5, 1024: 5, 2048: 7}
    for stage, (channels, kernel) in enumerate(kernels.items(), start=1):
        layer = layers[f"backbone/stage{stage}/block2/eca"]
        assert (layer.kind, layer.output[2], layer.parameters) == ("attention", channels, kernel)
    more = counts("ecaresnet50d")[0] - counts("resnet50d")[0]
    assert more == 3 * 5 + 4 * 5 + 6 * 5 + 3 * 7


def test_multiply_adds_of_efficient_attention():
    layers = layers_of("ecaresnet50d")
    assert layers["backbone/stage1/block1/eca"].multiply_adds == 5 * 256


def test_group_norms_keep_no_statistics():
    gn, bn = (
        {layer.path: layer for layer in summarise(ZOO[name])}
        for name in ("resnet50_gn", "resnet50")
    )
    assert list(gn) == list(bn)
    for path, layer in gn.items():
        assert layer == replace(bn[path], statistics=0)


def test_a_dilated_network_costs_more_and_weighs_the_same():
    """Later stages keep their maps: 4 times as many pixels at 16, 4 and 16 times at 8."""
    layers = {32: layers_of("resnet50")}
    for stride in (16, 8):
        found = summarise(replace(ZOO["resnet50"], output_stride=stride))
        layers[stride] = {layer.path: layer for layer in found}
    for path, layer in layers[32].items():
        for stride, growth in ((16, {"4": 4}), (8, {"3": 4, "4": 16})):
            other, stage = layers[stride][path], path.partition("stage")[2][:1]
            factor = growth.get(stage, 1)
            if path.endswith("block1/conv1"):  # in front of the stride
                factor = {"16-4": 1, "8-3": 1, "8-4": 4}.get(f"{stride}-{stage}", factor)
            assert other.parameters == layer.parameters
            assert other.multiply_adds == factor * layer.multiply_adds, path
    assert layers[8]["backbone/stage4/block1/conv2"].kind == "3x3, dilation 2"
    assert layers[8]["backbone/stage4/block2/conv2"].kind == "3x3, dilation 4"
    assert layers[16]["backbone/stage4/block1/conv2"].kind == "3x3"


def test_batch_statistics():
    assert counts("resnet50")[2] == 53_120
    assert counts("resnet18")[2] == 9_600


def test_resnet50_layer_by_layer():
    layers = layers_of("resnet50")

    def row(path):
        layer = layers[path]
        return layer.kind, layer.output, layer.parameters, layer.multiply_adds, layer.statistics

    pixels = 112 * 112
    assert row("backbone/stem_conv1") == ("7x7/2", (112, 112, 64), 9408, pixels * 9408, 0)
    assert row("backbone/stem_norm1") == ("norm", (112, 112, 64), 128, 0, 128)
    assert row("backbone/stage2/block1/conv1") == (
        "1x1",
        (56, 56, 128),
        256 * 128,
        56 * 56 * 256 * 128,
        0,
    )
    assert row("backbone/stage2/block1/conv2") == (
        "3x3/2",
        (28, 28, 128),
        9 * 128 * 128,
        28 * 28 * 9 * 128 * 128,
        0,
    )
    assert row("backbone/stage2/block1/shortcut_conv")[:2] == ("1x1/2", (28, 28, 512))
    assert row("head") == ("dense", (1000,), 2_049_000, 2_048_000, 0)
    repeats = {path.split("/conv3")[0]: layers[path].repeats for path in layers if "conv3" in path}
    assert repeats == {
        f"backbone/stage{stage}/block{block}": times
        for stage, depth in enumerate((3, 4, 6, 3), start=1)
        for block, times in ((1, 1), (2, depth - 1))
    }


def test_grouped_convolutions():
    """ResNeXt-50 32x4d (arXiv:1611.05431): 25,028,904 parameters and 4.2 G, as torchvision's."""
    layers = summarise(ResNetSpec(depths=(3, 4, 6, 3), groups=32, group_width=4))
    parameters, multiply_adds, _ = totals(layers)
    assert (parameters, round(multiply_adds / 1e9, 2)) == (25_028_904, 4.23)
    conv = next(layer for layer in layers if layer.path == "backbone/stage1/block1/conv2")
    assert (conv.kind, conv.parameters) == ("3x3, groups 32", 9 * 4 * 128)
    conv = next(layer for layer in layers if layer.path == "backbone/stage2/block1/conv2")
    assert conv.kind == "3x3/2, groups 32"


@pytest.mark.parametrize("shortcut", ["A", "B", "C", "none"])
def test_blocks_left_out_are_counted(shortcut):
    """Depths of 1, 2 and more, each against the whole tree of variables."""
    spec = ResNetSpec(depths=(1, 5, 2, 3), width=8, shortcut=shortcut)
    parameters, _, statistics = totals(summarise(spec, 5, image_size=32))
    assert {"params": parameters, "batch_stats": statistics} == sizes(spec, 5)


def test_image_size_and_classes():
    spec = ResNetSpec(depths=(1,), width=8, block="basic", stem="3x3")
    layers = summarise(spec, num_classes=3, image_size=10)
    assert [(layer.path, layer.output) for layer in layers] == [
        ("backbone/stem_conv1", (10, 10, 8)),
        ("backbone/stem_norm1", (10, 10, 8)),
        ("backbone/stage1/block1/conv1", (10, 10, 8)),
        ("backbone/stage1/block1/norm1", (10, 10, 8)),
        ("backbone/stage1/block1/conv2", (10, 10, 8)),
        ("backbone/stage1/block1/norm2", (10, 10, 8)),
        ("head", (3,)),
    ]
    conv, norm = 9 * 8 * 8, 16
    assert totals(layers) == (
        9 * 3 * 8 + norm + 2 * (conv + norm) + 8 * 3 + 3,
        100 * (9 * 3 * 8 + 2 * conv) + 8 * 3,
        3 * norm,
    )
    assert summarise(spec, 3)[0].output == (32, 32, 8)
    assert summarise(ZOO["resnet18"])[0].output == (112, 112, 64)


@pytest.mark.parametrize(("name", "closing"), [("resnet18c", []), ("resnetv2_50", ["norm"])])
def test_groups(name, closing):
    spec = ZOO[name]
    found = {group: [layer.path for layer in layers] for group, layers in groups(summarise(spec))}
    blocks = [f"stage{stage}/block{block}" for stage in (1, 2, 3, 4) for block in (1, 2)]
    assert list(found) == ["stem", *blocks, *closing, "head"]
    assert [path for paths in found.values() for path in paths] == [
        layer.path for layer in summarise(spec)
    ]
    stem = {"resnet18c": 6, "resnetv2_50": 1}[name]
    assert len(found["stem"]) == stem and found["head"] == ["head"]
    assert found["stage2/block2"][0].startswith("backbone/stage2/block2/")
