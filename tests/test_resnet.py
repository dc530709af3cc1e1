"""The backbone against a float64 NumPy network written out from the papers, and its options."""

import functools
import math
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.layers import DropPath, pad_shortcut
from resnet_jax.resnet import ResNet
from resnet_jax.spec import ResNetSpec
from resnet_jax.zoo import get_spec

BOTTLENECK = ResNetSpec(depths=(2, 1), width=4)
BASIC = replace(BOTTLENECK, block="basic")
CIFAR = replace(BASIC, stem="3x3", shortcut="A")
SHORT = {"depths": (1, 1)}  # where only the first block of a stage matters


# Half of the time here would be XLA optimising programs that run once.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def images(size: int = 12, batch: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def shapes(model: ResNet, size: int = 12) -> dict:
    x = jax.ShapeDtypeStruct((4, size, size, 3), jnp.float32)
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)


def variables_at_random(model: ResNet, seed: int = 1) -> dict:
    """Every leaf away from the value it starts with, so that each of them counts."""
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        draw = rng.normal(size=x.shape)
        value = {
            "kernel": lambda: draw / math.sqrt(math.prod(x.shape[:-1])),
            "scale": lambda: 1 + 0.3 * draw,
            "bias": lambda: 0.3 * draw,
            "mean": lambda: 0.3 * draw,
            "var": lambda: np.exp(0.3 * draw),
        }[path[-1].key]()
        return value.astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes(model))


def initialised(model: ResNet, seed: int = 0) -> dict:
    init = jit(functools.partial(model.init, train=False))
    return init(jax.random.key(seed), jnp.zeros((1, 12, 12, 3)))


def run(model: ResNet, variables: dict, x: np.ndarray, train: bool, **rngs: jax.Array):
    def apply(variables, x):
        return model.apply(variables, x, train=train, mutable=["batch_stats"], rngs=rngs)

    pyramid, updates = jit(apply)(variables, x)
    return jax.tree.map(np.asarray, (pyramid, updates["batch_stats"]))


def paths(tree: dict) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


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
        self.params, self.stats = variables["params"], variables["batch_stats"]

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


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet20_cifar", (16, 16, 32, 64)), ("resnetv2_164_cifar", (16, 64, 128, 256))],
)
def test_pyramid_of_a_cifar_network(name, channels):
    assert pyramid_of(name, 32) == [
        (f"c{i + 1}", (2, side, side, channel), "float32")
        for i, (side, channel) in enumerate(zip((32, 32, 16, 8), channels, strict=True))
    ]


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


def test_every_convolution_computes_in_bfloat16():
    model = ResNet(replace(BOTTLENECK, stem="deep", avg_down=True), dtype=jnp.bfloat16)
    jaxpr = jax.make_jaxpr(functools.partial(model.apply, train=False))(shapes(model), images())
    convs = [e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert len(convs) == 3 + 3 * 3 + 2
    assert {str(v.aval.dtype) for e in convs for v in (*e.invars, *e.outvars)} == {"bfloat16"}


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
    # He 2016b: a projection of a pre-activation block has no norm of its own.
    assert list(shortcut_parameters(replace(BASIC, preact=True))) == [
        "stage2/block1/shortcut_conv/kernel"
    ]


LAST = {"basic": 2, "bottleneck": 3}


@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.parametrize(
    ("block", "zero_gamma", "shortcut"),
    [
        ("basic", True, "B"),
        ("bottleneck", True, "C"),
        ("bottleneck", False, "B"),
        ("basic", True, "none"),
    ],
)
def test_what_starts_at_zero(block, preact, zero_gamma, shortcut):
    spec = ResNetSpec(
        depths=(2, 1), width=4, block=block, preact=preact, zero_gamma=zero_gamma, shortcut=shortcut
    )
    params = paths(initialised(ResNet(spec))["params"])
    zero = {path for path, value in params.items() if not value.any() and "bias" not in path}
    blocks = ["stage1/block1", "stage1/block2", "stage2/block1"]
    last = f"conv{LAST[block]}/kernel" if preact else f"norm{LAST[block]}/scale"
    # A plain network has nothing beside its branches: at zero it would pass no signal.
    acts = zero_gamma and shortcut != "none"
    assert zero == ({f"{block}/{last}" for block in blocks} if acts else set())
    scales = {path: value for path, value in params.items() if path.endswith("scale")}
    assert all((value == 1).all() for path, value in scales.items() if path not in zero)
    assert not any(value.any() for path, value in params.items() if path.endswith("bias"))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_v1_blocks_start_as_identity_and_relu(block):
    """With shortcut A, where no projection stands beside the branch."""
    spec = replace(CIFAR, block=block, **SHORT)
    model = ResNet(spec)
    pyramid, _ = run(model, initialised(model), images(), train=True)
    wide = 4 if block == "basic" else 16
    c1, c2 = (jnp.asarray(pyramid[level]) for level in ("c1", "c2"))
    assert c1.any() and (c1 >= 0).all()
    np.testing.assert_array_equal(c2, pad_shortcut(c1, wide, 1))
    np.testing.assert_array_equal(pyramid["c3"], pad_shortcut(c2, 2 * wide, 2))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_v2_blocks_start_as_identity(block):
    spec = replace(CIFAR, depths=(1, 1, 1), block=block, preact=True)
    model = ResNet(spec)
    pyramid, _ = run(model, initialised(model), images(), train=True)
    wide = 4 if block == "basic" else 16
    c1, c2 = (jnp.asarray(pyramid[level]) for level in ("c1", "c2"))
    assert (c1 < 0).any()
    np.testing.assert_array_equal(c2, pad_shortcut(c1, wide, 1))
    np.testing.assert_array_equal(pyramid["c3"], pad_shortcut(c2, 2 * wide, 2))


def test_without_zero_gamma_a_block_does_something_at_once():
    for preact in (False, True):
        model = ResNet(replace(CIFAR, depths=(1, 1), zero_gamma=False, preact=preact))
        pyramid, _ = run(model, initialised(model), images(), train=True)
        assert np.abs(pyramid["c2"] - pyramid["c1"]).mean() > 0.1


@pytest.mark.parametrize("preact", [False, True])
def test_a_branch_can_leave_zero(preact):
    model = ResNet(replace(CIFAR, preact=preact, **SHORT))
    variables, x = initialised(model), images()
    up = np.random.default_rng(5).normal(size=(4, 6, 6, 8))

    def loss(params):
        pyramid, _ = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return (pyramid["c3"] * up).sum()

    slopes = paths(jit(jax.grad(loss))(variables["params"]))
    for block in ("stage1/block1", "stage2/block1"):
        last = f"{block}/conv2/kernel" if preact else f"{block}/norm2/scale"
        assert np.abs(slopes[last]).mean() > 1e-2, last
        # Behind a zero, nothing arrives yet.
        assert not slopes[f"{block}/conv1/kernel"].any()


def test_the_last_level_of_v2_is_behind_its_relu_and_the_others_are_not():
    model = ResNet(replace(CIFAR, depths=(1, 1, 1), preact=True))
    pyramid, _ = run(model, variables_at_random(model), images(), train=False)
    negative = {level: float((values < 0).mean()) for level, values in pyramid.items()}
    assert negative.pop("c4") == 0 and (pyramid["c4"] == 0).any() and (pyramid["c4"] > 0).any()
    assert min(negative.values()) > 0.2


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("kaiming_normal", math.sqrt(2 / (9 * 32))),
        ("xavier_uniform", math.sqrt(2 / (9 * 48))),
        ("small_normal", 0.01),
        ("zeros", 0),
    ],
)
def test_kernel_init(name, std):
    spec = ResNetSpec(depths=(1, 1), block="basic", width=16, kernel_init=name)
    params = paths(initialised(ResNet(spec))["params"])
    assert params["stage2/block1/conv1/kernel"].shape == (3, 3, 16, 32)
    assert params["stage2/block1/conv1/kernel"].std() == pytest.approx(std, rel=0.06)
    kernels = [value for path, value in params.items() if path.endswith("kernel")]
    assert len(kernels) == 6 and all(value.any() == (name != "zeros") for value in kernels)
    # Each has numbers of its own, also where two have one shape.
    assert len({value.ravel()[0] for value in kernels}) == (6 if name != "zeros" else 1)


def test_norm_momentum_reaches_every_norm():
    spec = replace(BASIC, stem="deep", **SHORT)
    variables, x = variables_at_random(ResNet(spec)), images()
    before = paths(variables["batch_stats"])
    batches = []
    for momentum in (0.9, 0.25):
        _, stats = run(ResNet(replace(spec, norm_momentum=momentum)), variables, x, train=True)
        after = paths(stats)
        batches.append({p: (after[p] - momentum * before[p]) / (1 - momentum) for p in before})
    assert list(batches[0]) == list(batches[1])
    for path, batch in batches[0].items():
        np.testing.assert_allclose(batch, batches[1][path], rtol=1e-4, atol=1e-4, err_msg=path)


def test_norm_group_size_makes_the_groups_separate_batches():
    model = ResNet(CIFAR, norm_group_size=2)
    variables, x = variables_at_random(model), images(8)
    pyramid, stats = run(model, variables, x, train=True)
    halves = [run(ResNet(CIFAR), variables, half, train=True) for half in (x[:2], x[2:])]
    for level, values in pyramid.items():
        alone = np.concatenate([half[level] for half, _ in halves])
        np.testing.assert_allclose(values, alone, rtol=1e-4, atol=1e-5)
    expected = jax.tree.map(lambda *parts: np.mean(parts, 0), *(half for _, half in halves))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), stats, expected)


def test_a_frozen_network_trains_as_it_evaluates():
    model = ResNet(replace(BOTTLENECK, stem="deep", preact=True), freeze_norm=True)
    variables, x = variables_at_random(model), images()
    trained, stats = run(model, variables, x, train=True)
    evaluated, _ = run(model.clone(freeze_norm=False), variables, x, train=False)
    jax.tree.map(np.testing.assert_array_equal, trained, evaluated)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


@pytest.mark.parametrize(
    "spec", [replace(BOTTLENECK, stem="deep"), replace(CIFAR, preact=True)], ids=["v1", "v2"]
)
def test_training_moves_every_statistic_and_evaluation_none(spec):
    model = ResNet(spec)
    variables, x = variables_at_random(model), images()
    before = paths(variables["batch_stats"])
    _, trained = run(model, variables, x, train=True)
    moved = {path for path, value in paths(trained).items() if (value != before[path]).all()}
    assert moved == set(before)
    _, evaluated = run(model, variables, x, train=False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, variables["batch_stats"])


def drop_rates(spec: ResNetSpec) -> list[float]:
    rates = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, DropPath) and context.method_name == "__call__":
            rates.append(context.module.rate)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(ResNet(spec))
    return rates


def test_drop_path_grows_linearly_to_its_value_at_the_last_block():
    spec = replace(BASIC, depths=(2, 1, 3), drop_path=0.5)
    assert drop_rates(spec) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert drop_rates(replace(spec, drop_path=0)) == [0] * 6
    assert drop_rates(replace(spec, depths=(1,))) == [0]
    assert drop_rates(replace(spec, shortcut="none", drop_path=0)) == []


def test_drop_path_drops_the_branch_and_keeps_the_shortcut():
    """Of v2 blocks, where no relu hides the sum: x or x + branch / (1 - rate), by example."""
    model = ResNet(replace(CIFAR, depths=(1, 1, 1), drop_path=0.5, preact=True))
    whole = ResNet(replace(model.spec, drop_path=0))
    variables, x = variables_at_random(model), images(8, batch=64)
    full, _ = run(whole, variables, x, train=True)
    y, _ = run(model, variables, x, train=True, dropout=jax.random.key(0))
    np.testing.assert_allclose(y["c2"], full["c2"], atol=1e-6)  # the first block's rate is 0
    short = np.asarray(pad_shortcut(jnp.asarray(full["c2"]), 8, 2))
    dropped = np.isclose(y["c3"], short, atol=1e-5).all((1, 2, 3))
    assert 0.05 < dropped.mean() < 0.5  # of 64, with a rate of 0.25
    kept = short + (full["c3"] - short) / 0.75
    np.testing.assert_allclose(y["c3"][~dropped], kept[~dropped], atol=1e-4)
    evaluated, _ = run(model, variables, x, train=False)
    expected, _ = run(whole, variables, x, train=False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, expected)
