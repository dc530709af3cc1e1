"""Exact parameter counts and multiply-adds of every name, and where they come from."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.heads import Classifier
from resnet_jax.resnet import ResNet
from resnet_jax.spec import ResNetSpec
from resnet_jax.summary import groups, summarise, totals
from resnet_jax.zoo import ZOO

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
GIGA = {  # multiply-adds, as the papers and torchvision publish them
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


def classes(name: str) -> int:
    return 1000 if ZOO[name].image_size == 224 else 10


@functools.cache
def counts(name: str) -> tuple[int, int, int]:
    return totals(summarise(ZOO[name], classes(name)))


def variables_of(spec: ResNetSpec, num_classes: int) -> dict:
    model = Classifier(ResNet(spec), num_classes)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)


def size(tree: dict) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", [n for n in ZOO if "1202" not in n and "1001" not in n])
def test_counts_are_those_of_the_variables(name):
    """Block for block; the two names left out are built like 110 and 164."""
    variables = variables_of(ZOO[name], classes(name))
    parameters, _, statistics = counts(name)
    assert parameters == size(variables["params"])
    assert statistics == size(variables["batch_stats"])


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


def test_batch_statistics():
    assert counts("resnet50")[2] == 53_120
    assert counts("resnet18")[2] == 9_600


def test_resnet50_layer_by_layer():
    layers = {layer.path: layer for layer in summarise(ZOO["resnet50"])}

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
    variables = variables_of(spec, 5)
    parameters, _, statistics = totals(summarise(spec, 5, image_size=32))
    assert (parameters, statistics) == (size(variables["params"]), size(variables["batch_stats"]))


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
