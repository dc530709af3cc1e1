"""LeNet-5 against its layers written out in float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.heads.classifier import Classifier, create_model
from resnet_jax.lenet import LeNet
from resnet_jax.spec import LeNetSpec


def images(sides: tuple[int, int] = (32, 32), batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, *sides, 3)).astype(np.float32)


def variables_of(model: LeNet) -> dict:
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    init = functools.partial(model.init, train=False)
    rng = np.random.default_rng(1)

    def leaf(x):
        return (rng.normal(size=x.shape) / np.sqrt(np.prod(x.shape[:-1]))).astype(np.float32)

    return jax.tree.map(leaf, jax.eval_shape(init, jax.random.key(0), x))


def convolve(x: np.ndarray, layer: dict) -> np.ndarray:
    """Where the whole kernel fits."""
    size = layer["kernel"].shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return np.einsum("bhwcuv,uvcf->bhwf", windows, layer["kernel"], optimize=True) + layer["bias"]


def halve(x: np.ndarray, reduce) -> np.ndarray:
    batch, height, width, channels = x.shape
    cut = x[:, : height // 2 * 2, : width // 2 * 2]
    return reduce(cut.reshape(batch, height // 2, 2, width // 2, 2, channels), (2, 4))


@pytest.mark.parametrize(
    ("spec", "sides", "act", "reduce"),
    [
        (LeNetSpec(), (32, 32), np.tanh, np.mean),
        (
            LeNetSpec(activation="relu"),
            (33, 40),
            functools.partial(np.maximum, 0),
            np.mean,
        ),
    ],
)
def test_levels(spec, sides, act, reduce):
    model, x = LeNet(spec), images(sides)
    variables = variables_of(model)
    levels = model.apply(variables, x, train=True)
    wide = jax.tree.map(np.float64, variables["params"])
    c1 = halve(act(convolve(x.astype(np.float64), wide["conv1"])), reduce)
    c2 = halve(act(convolve(c1, wide["conv2"])), reduce)
    c3 = act(convolve(act(convolve(c2, wide["conv3"])), wide["conv4"]))
    assert list(levels) == ["c1", "c2", "c3"]
    for level, expected in zip(levels.values(), (c1, c2, c3), strict=True):
        assert level.shape == expected.shape and expected.std() > 0.01
        np.testing.assert_allclose(level, expected, rtol=1e-4, atol=1e-5)
    rows, columns = ((side // 2 - 2) // 2 - 2 for side in sides)
    assert c3.shape == (2, rows - 4, columns - 4, 84)


def test_variables():
    """LeCun 1998, II.B, with all maps of S2 seen by C3 and without weights in S2 and S4."""
    model = LeNet(LeNetSpec(), jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.uint8)
    init = functools.partial(model.init_with_output, train=True)
    levels, variables = jax.eval_shape(init, jax.random.key(0), x)
    assert {name: level.shape for name, level in levels.items()} == {
        "c1": (2, 14, 14, 6),
        "c2": (2, 5, 5, 16),
        "c3": (2, 1, 1, 84),
    }
    assert {level.dtype for level in levels.values()} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert jax.tree.map(jnp.shape, variables) == {
        "params": {
            "conv1": {"kernel": (5, 5, 1, 6), "bias": (6,)},
            "conv2": {"kernel": (5, 5, 6, 16), "bias": (16,)},
            "conv3": {"kernel": (5, 5, 16, 120), "bias": (120,)},
            "conv4": {"kernel": (1, 1, 120, 84), "bias": (84,)},
        }
    }


def test_classifier():
    """The last map averaged and one dense layer: of 32x32 images, F6 and the output."""
    model = create_model("lenet5", 10)
    x = images()
    backbone = variables_of(LeNet(LeNetSpec()))["params"]
    rng = np.random.default_rng(2)
    head = {"kernel": np.float32(rng.normal(size=(84, 10))), "bias": np.float32(np.arange(10))}
    variables = {"params": {"backbone": backbone, "head": head}}
    last = LeNet(LeNetSpec()).apply({"params": backbone}, x, train=False)["c3"]
    logits, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert (logits.dtype, dict(updates)) == (jnp.float32, {})
    expected = np.asarray(last)[:, 0, 0] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_float64():
    with jax.enable_x64(True):
        model = Classifier(LeNet(LeNetSpec(), jnp.float64), 10)
        x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float64)
        init = functools.partial(model.init_with_output, train=True)
        logits, variables = jax.eval_shape(init, jax.random.key(0), x)
        assert logits.dtype == jnp.float64
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("sides", [(31, 32), (32, 28)])
def test_images_that_are_too_small(sides):
    with pytest.raises(ValueError, match=rf"32x32 or more, not \({sides[0]}, {sides[1]}\)"):
        LeNet(LeNetSpec()).init(jax.random.key(0), images(sides), train=False)
