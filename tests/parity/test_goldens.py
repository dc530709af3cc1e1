"""All networks give the numbers of torchvision and timm, without installing them."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model, from_tensors
from resnet_jax.weights.convert import torch_shapes
from resnet_jax.zoo import ZOO, image_size
from tests.parity.fill import fill, images
from tests.parity.goldens import JSON, LEFT_OUT, NPZ, VARIANTS, sample, size

GOLDENS = json.loads(JSON.read_text())["networks"]
NAMES = [key for key, row in GOLDENS.items() if row["file"]]
COVERED = [key for key in GOLDENS if key.split("/")[1] not in LEFT_OUT]


def test_every_variant_has_a_golden():
    """A new activation or option is compared only after `python -m tests.parity.goldens`."""
    assert {f"timm/{name}" for name in VARIANTS} <= set(GOLDENS)


def error(got, wanted) -> float:
    """Largest difference, relative to the largest value."""
    return float(np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max())


@pytest.fixture(scope="module")
def goldens():
    return np.load(NPZ)


@functools.cache
def outputs(name: str) -> tuple[list[list[int]], list[np.ndarray], np.ndarray, int]:
    """Shapes and samples of the pyramid, logits, and the number of parameters.

    Ten names are torchvision's and timm's: one run is compared with both.
    """
    name, _, changes = VARIANTS.get(name, (name, {}, {}))
    model = create_model(name, **changes)
    x = jnp.asarray(images(*size(name)))
    tensors = {tensor: fill(tensor, shape) for tensor, shape in torch_shapes(name).items()}
    variables = from_tensors(tensors, name)
    del tensors
    # Not jitted: compiling a network takes a minute, running its layers one by one a second.
    logits, kept = model.apply(
        variables,
        x,
        train=False,
        capture_intermediates=lambda module, _: module.name == "backbone",
        mutable=["intermediates"],
    )
    (levels,) = kept["intermediates"]["backbone"]["__call__"]
    shapes = [list(level.shape[1:]) for level in levels.values()]
    samples = [sample(np.asarray(level)) for level in levels.values()]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return shapes, samples, np.asarray(logits[0]), parameters


@pytest.mark.parametrize("key", COVERED)
def test_same_numbers(key, goldens):
    shapes, samples, logits, parameters = outputs(key.split("/")[1])
    assert shapes == GOLDENS[key]["pyramid"]
    for level, wanted in zip(samples, goldens[f"{key}/pyramid"], strict=True):
        assert error(level, wanted) < 1e-4
    assert error(logits, goldens[f"{key}/logits"]) < 1e-4
    assert parameters == GOLDENS[key]["parameters"]


@pytest.mark.parametrize("key", [key for key in NAMES if "image_size" in GOLDENS[key]])
def test_same_image_size(key):
    assert image_size(key.split("/")[1]) == GOLDENS[key]["image_size"]


def test_only_listed_networks_are_skipped():
    missing = {key.split("/")[1] for key in NAMES} - set(ZOO)
    assert missing == set(LEFT_OUT)


def test_the_comparison_notices_small_mistakes(goldens):
    """Typical mistakes of ports change the logits by more than the tolerance."""
    name = "resnet50d"
    tensors = {tensor: fill(tensor, shape) for tensor, shape in torch_shapes(name).items()}
    variables = from_tensors(tensors, name)
    x = jnp.asarray(images(*size(name)))
    for mistake in ({"norm_epsilon": 1e-3}, {"activation": "leaky_relu"}, {"avg_down": False}):
        logits = create_model(name, **mistake).apply(variables, x, train=False)[0]
        assert error(logits, goldens[f"timm/{name}/logits"]) > 3e-4, mistake
