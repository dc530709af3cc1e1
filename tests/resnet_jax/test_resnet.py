"""The backbone against a float64 NumPy network written out from the papers, and its options."""

import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.resnet import ResNet
from resnet_jax.spec import ResNetSpec
from resnet_jax.zoo import ZOO, get_spec
from tests.networks import images, run, shapes, variables_at_random

BOTTLENECK = ResNetSpec(depths=(2, 1), width=4)
BASIC = replace(BOTTLENECK, block="basic")
CIFAR = replace(BASIC, stem="3x3", shortcut="A")
SHORT = {"depths": (1, 1)}  # where only the first block of a stage matters


# The reference: He 2016a (figures 2 to 5, table 1), He 2016b (figure 1b), He 2019 (figure 2).


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int = 1, groups: int = 1) -> np.ndarray:
    kernel, reach = kernel.astype(np.float64), kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (1, 2))
    parts = zip(
        np.split(windows[:, ::stride, ::stride], groups, axis=3),
        np.split(kernel, groups, axis=3),
        strict=True,
    )
    return np.concatenate([np.einsum("bhwcuv,uvcf->bhwf", x, k) for x, k in parts], axis=3)


def pooled(x: np.ndarray, size: int, reach: int, reduce) -> np.ndarray:
    """With stride 2, over those pixels of a window that are on the map."""
    rows, columns = (range(0, side, 2) for side in x.shape[1:3])

    def window(i):
        return slice(max(i - reach, 0), i - reach + size)

    return np.stack(
        [np.stack([reduce(x[:, window(i), window(j)], (1, 2)) for j in columns], 1) for i in rows],
        axis=1,
    )


class Reference:
    """A network with the options of `spec`, which is read, but not asked what to build."""

    def __init__(self, spec: ResNetSpec, variables: dict, train: bool):
        self.spec, self.train = spec, train
        wide = jax.tree.map(np.float64, variables)
        self.params, self.stats = wide["params"], wide["batch_stats"]

    def conv(self, x, where, stride=1, groups=1):
        return convolve(x, self.at(self.params, where)["kernel"], stride, groups)

    def norm(self, x, where):
        params, stats = self.at(self.params, where), self.at(self.stats, where)
        mean, var = (stats["mean"], stats["var"])
        if self.train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / np.sqrt(var + self.spec.norm_epsilon) * params["scale"] + params["bias"]

    @staticmethod
    def at(tree, where):
        for name in where.split("/"):
            tree = tree[name]
        return tree

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        spec, x = self.spec, x.astype(np.float64)
        strides = {"7x7": (2,), "deep": (2, 1, 1), "3x3": (1,)}[spec.stem]
        for i, stride in enumerate(strides, start=1):
            x = self.conv(x, f"stem_conv{i}", stride)
            if not spec.preact or i < len(strides):
                x = relu(self.norm(x, f"stem_norm{i}"))
        pyramid = {"c1": x}
        if spec.stem != "3x3":
            x = pooled(x, 3, 1, np.max)
        for stage, depth in enumerate(spec.depths, start=1):
            for block in range(1, depth + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                x = (self.v2 if spec.preact else self.v1)(x, f"stage{stage}/block{block}", stride)
            pyramid[f"c{stage + 1}"] = x
        if spec.preact:
            pyramid[f"c{len(spec.depths) + 1}"] = relu(self.norm(x, "norm"))
        return pyramid

    def strides(self, stride: int) -> dict[str, int]:
        """Of each convolution on the branch."""
        if self.spec.block == "basic":
            return {"conv1": stride, "conv2": 1}
        first = self.spec.stride_at == "1x1"
        return {"conv1": stride if first else 1, "conv2": 1 if first else stride, "conv3": 1}

    def v1(self, x, where, stride):
        y = x
        for name, step in self.strides(stride).items():
            y = relu(y) if name != "conv1" else y
            groups = self.spec.groups if name == "conv2" else 1
            y = self.conv(y, f"{where}/{name}", step, groups)
            y = self.norm(y, f"{where}/{name.replace('conv', 'norm')}")
        return relu(self.add(y, x, x, where, stride))

    def v2(self, x, where, stride):
        y, shared = x, relu(self.norm(x, f"{where}/norm1"))
        for name, step in self.strides(stride).items():
            y = relu(self.norm(y, f"{where}/{name.replace('conv', 'norm')}"))
            y = self.conv(y, f"{where}/{name}", step, self.spec.groups if name == "conv2" else 1)
        return self.add(y, x, shared, where, stride)

    def add(self, y, x, projected, where, stride):
        same = stride == 1 and x.shape == y.shape
        if self.spec.shortcut == "none":
            return y
        if self.spec.shortcut == "C" or (self.spec.shortcut == "B" and not same):
            if self.spec.avg_down and stride == 2:
                projected, stride = pooled(projected, 2, 0, np.mean), 1
            projected = self.conv(projected, f"{where}/shortcut_conv", stride)
            if not self.spec.preact:
                projected = self.norm(projected, f"{where}/shortcut_norm")
            return y + projected
        if same:
            return y + x
        before = (y.shape[-1] - x.shape[-1]) // 2
        y = y.copy()
        y[..., before : before + x.shape[-1]] += x[:, ::stride, ::stride]
        return y


@pytest.mark.parametrize(
    ("spec", "size", "modes"),
    [
        pytest.param(BOTTLENECK, 20, "both", id="v1.5"),
        pytest.param(
            replace(BOTTLENECK, stride_at="1x1", norm_epsilon=0.1, **SHORT), 20, "train", id="v1"
        ),
        pytest.param(
            replace(BOTTLENECK, stem="deep", avg_down=True, **SHORT), 20, "eval", id="d, odd"
        ),
        pytest.param(
            replace(BASIC, stem="deep", avg_down=True, shortcut="C", **SHORT),
            16,
            "train",
            id="d, even",
        ),
        pytest.param(
            replace(BOTTLENECK, groups=2, group_width=32, **SHORT), 16, "eval", id="grouped"
        ),
        pytest.param(CIFAR, 9, "train", id="cifar A"),
        pytest.param(replace(CIFAR, shortcut="B", **SHORT), 9, "eval", id="cifar B"),
        pytest.param(replace(CIFAR, shortcut="C"), 8, "eval", id="cifar C"),
        pytest.param(replace(CIFAR, shortcut="none"), 8, "train", id="plain"),
        pytest.param(replace(BOTTLENECK, preact=True), 20, "both", id="v2"),
        pytest.param(
            replace(BOTTLENECK, preact=True, stem="deep", avg_down=True, **SHORT),
            20,
            "train",
            id="v2 d",
        ),
        pytest.param(
            replace(BASIC, preact=True, stem="3x3", shortcut="A"), 9, "eval", id="v2 cifar A"
        ),
    ],
)
def test_the_pyramid_is_that_of_the_reference(spec, size, modes):
    model, x = ResNet(spec), images(size)
    variables = variables_at_random(model)
    for train in {"both": (False, True), "train": (True,), "eval": (False,)}[modes]:
        pyramid, _ = run(model, variables, x, train)
        expected = Reference(spec, variables, train)(x)
        assert list(pyramid) == list(expected) == ["c1", "c2", "c3"]
        for level, values in expected.items():
            np.testing.assert_allclose(pyramid[level], values, 1e-4, 1e-4, err_msg=level)
            assert values.std() > 0.05  # nothing has died on the way


def test_float64_is_float64_from_end_to_end():
    spec = replace(BOTTLENECK, stem="deep", avg_down=True, preact=True, **SHORT)
    with jax.enable_x64(True):
        model, x = ResNet(spec, dtype=jnp.float64), images(16).astype(np.float64)
        variables = variables_at_random(model)
        for train in (False, True):
            pyramid, _ = run(model, variables, x, train)
            for level, values in Reference(spec, variables, train)(x).items():
                assert pyramid[level].dtype == jnp.float64
                tolerance = 1e-10 if train else 1e-5  # the running statistics are float32
                np.testing.assert_allclose(pyramid[level], values, tolerance, tolerance)


SIDES = {224: (112, 56, 28, 14, 7), 225: (113, 57, 29, 15, 8)}


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("resnet18", 224, (64, 64, 128, 256, 512)),
        ("resnet50", 224, (64, 256, 512, 1024, 2048)),
        ("resnet50_v1", 225, (64, 256, 512, 1024, 2048)),
        ("resnet50d", 224, (64, 256, 512, 1024, 2048)),
        ("resnet50d", 225, (64, 256, 512, 1024, 2048)),
        ("resnetv2_34", 225, (64, 64, 128, 256, 512)),
        ("plain18", 224, (64, 64, 128, 256, 512)),
    ],
)
def test_pyramid_of_an_imagenet_network(name, size, channels):
    assert pyramid_of(name, size) == [
        (f"c{i + 1}", (2, side, side, channel), "float32")
        for i, (side, channel) in enumerate(zip(SIDES[size], channels, strict=True))
    ]


WIDE, NARROW = (256, 512, 1024, 2048), (64, 128, 256, 512)
CHANNELS = [  # of the levels of a name; the first pattern that fits
    ("wrn16_8_cifar", (16, 128, 256, 512)),
    ("wrn28_10_cifar", (16, 160, 320, 640)),
    ("wrn40_2_cifar", (16, 32, 64, 128)),
    ("resnetv2_(164|1001)_cifar", (16, 64, 128, 256)),
    ("resnext29_.*_cifar", (64, 256, 512, 1024)),
    (".*_cifar", (16, 16, 32, 64)),
    (".*x2_bit", (128, *(2 * width for width in WIDE))),
    (".*x3_bit", (192, *(3 * width for width in WIDE))),
    (".*x4_bit", (256, *(4 * width for width in WIDE))),
    ("test_resnet", (32, 32, 48, 192, 96)),
    (r"resnet\d+s|senet154|seresnextaa201d_32x8d", (128, *WIDE)),
    (r"\D*(v2_)?(10|18|34)\D?", (64, *NARROW)),
    (".*", (64, *WIDE)),
]


@pytest.mark.parametrize("name", [name for name in ZOO if name != "lenet5"])
def test_pyramid_of_every_name(name):
    """Its levels and their dtype, and float32 variables, where it computes in bfloat16."""
    channels = next(levels for pattern, levels in CHANNELS if re.fullmatch(pattern, name))
    strides = (1, 1, 2, 4) if name.endswith("_cifar") else (2, 4, 8, 16, 32)
    assert list(shallow_pyramid(replace(ZOO[name], depths=(1,) * len(ZOO[name].depths)))) == [
        (f"c{i}", (2, 64 // stride, 96 // stride, channel))
        for i, (stride, channel) in enumerate(zip(strides, channels, strict=True), start=1)
    ]


@functools.cache
def shallow_pyramid(spec: ResNetSpec) -> list[tuple]:
    x = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    init = functools.partial(ResNet(spec, jnp.bfloat16).init_with_output, train=True)
    pyramid, variables = jax.eval_shape(init, jax.random.key(0), x)
    assert {out.dtype for out in pyramid.values()} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    return [(level, out.shape) for level, out in pyramid.items()]


def pyramid_of(name: str, size: int, **options) -> list[tuple]:
    spec = get_spec(name)
    model = ResNet(replace(spec, depths=(1,) * len(spec.depths)), **options)
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    init = functools.partial(model.init_with_output, train=True)
    pyramid, _ = jax.eval_shape(init, jax.random.key(0), x)
    return [(level, out.shape, str(out.dtype)) for level, out in pyramid.items()]


@pytest.mark.parametrize("name", ["resnet50d", "resnetv2_18", "resnet20_cifar"])
def test_activations_are_bfloat16_and_variables_float32(name):
    assert {dtype for *_, dtype in pyramid_of(name, 64, dtype=jnp.bfloat16)} == {"bfloat16"}
    tree = shapes(ResNet(get_spec(name, **SHORT), dtype=jnp.bfloat16), 64)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} == {"float32"}


def equations(jaxpr) -> list:
    """Of a program and of the branches in it, one of which each platform takes."""
    found = list(jaxpr.eqns)
    for equation in jaxpr.eqns:
        for branch in equation.params.get("branches", ()):
            found += equations(branch.jaxpr)
    return found


def test_every_convolution_computes_in_bfloat16():
    model = ResNet(replace(BOTTLENECK, stem="deep", avg_down=True), dtype=jnp.bfloat16)
    jaxpr = jax.make_jaxpr(functools.partial(model.apply, train=False))(shapes(model), images())
    products = {"conv_general_dilated": [], "dot_general": []}
    for equation in equations(jaxpr.jaxpr):
        products.get(equation.primitive.name, []).append(equation)
    convs, dots = products.values()
    assert len(convs) == 3 + 3 * 3 + 2 and len(dots) >= 2 * 3 + 2  # the 1x1, on a CPU
    types = {str(v.aval.dtype) for e in convs + dots for v in (*e.invars, *e.outvars)}
    assert types == {"bfloat16"}


@pytest.mark.parametrize("name", ["resnet50", "resnet50_v1", "resnet18"])
def test_which_convolution_strides(name):
    spec = replace(get_spec(name), depths=(1, 2))
    model = ResNet(spec)
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    init = functools.partial(model.init, train=False, capture_intermediates=True, mutable=True)
    seen = jax.eval_shape(init, jax.random.key(0), x)["intermediates"]["stage2"]
    sides = {
        f"{block}/{conv}": seen[block][conv]["__call__"][0].shape[1]
        for block in ("block1", "block2")
        for conv in seen[block]
        if "conv" in conv
    }
    rest = {f"block2/{conv}": 8 for conv in seen["block2"] if "conv" in conv}
    first = {
        "resnet50": {"conv1": 16, "conv2": 8, "conv3": 8, "shortcut_conv": 8},
        "resnet50_v1": {"conv1": 8, "conv2": 8, "conv3": 8, "shortcut_conv": 8},
        "resnet18": {"conv1": 8, "conv2": 8, "shortcut_conv": 8},
    }[name]
    assert sides == {f"block1/{conv}": side for conv, side in first.items()} | rest


def test_deep_stem():
    params = shapes(ResNet(get_spec("resnet50c", **SHORT)), 64)["params"]
    stem = {name: layer for name, layer in params.items() if name.startswith("stem_conv")}
    assert {name: conv["kernel"].shape for name, conv in stem.items()} == {
        "stem_conv1": (3, 3, 3, 32),
        "stem_conv2": (3, 3, 32, 32),
        "stem_conv3": (3, 3, 32, 64),
    }


def shortcut_parameters(spec: ResNetSpec) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(shapes(ResNet(spec))["params"])
    named = {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}
    return {path: shape for path, shape in named.items() if "shortcut" in path}


def test_shortcut_parameters():
    first = {
        "stage2/block1/shortcut_conv/kernel": (1, 1, 4, 8),
        "stage2/block1/shortcut_norm/scale": (8,),
        "stage2/block1/shortcut_norm/bias": (8,),
    }
    every = {
        f"stage{stage}/block{block}/{path}": shape
        for stage, block, width in ((1, 1, 4), (1, 2, 4), (2, 1, 8))
        for path, shape in {
            "shortcut_conv/kernel": (1, 1, 4, width),
            "shortcut_norm/scale": (width,),
            "shortcut_norm/bias": (width,),
        }.items()
    }
    assert shortcut_parameters(replace(BASIC, shortcut="A")) == {}
    assert shortcut_parameters(replace(BASIC, shortcut="B")) == first
    assert shortcut_parameters(replace(BASIC, shortcut="C")) == every
    assert shortcut_parameters(replace(BASIC, shortcut="none")) == {}
    # He 2016b: a projection of a pre-activation block has no norm.
    assert list(shortcut_parameters(replace(BASIC, preact=True))) == [
        "stage2/block1/shortcut_conv/kernel"
    ]
