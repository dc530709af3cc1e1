"""resnet_jax/weights/convert.py: round trips, usual checkpoints, a new head.

That torch itself agrees is checked in tests/parity; nothing here needs it.
"""

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.core import freeze
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from resnet_jax import (
    WeightsError,
    create_model,
    from_tensors,
    load_weights,
    save_weights,
)
from resnet_jax.weights.convert import read_tensors, torch_shapes
from tests.resnet_jax.test_torch_checkpoint import Storage, tensor, write_zip

CIFAR = "resnet8_cifar"
SHALLOW = {"depths": (1, 1, 1, 1)}
KINDS = {
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
}


@lru_cache
def _shapes(name: str, num_classes: int, changes: tuple) -> Any:
    model = create_model(name, num_classes, **dict(changes))
    images = jnp.zeros((1, 64, 64, 3))
    return jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))


def random_variables(name: str, num_classes: int = 10, **changes: Any) -> dict:
    """Float32 variables with distinct values, so that swapped tensors or axes are found."""
    rng = np.random.default_rng(0)
    shapes = _shapes(name, num_classes, tuple(changes.items()))
    return jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), shapes)


def same(found: Any, expected: Any) -> None:
    """The same paths, types and bits."""
    found, expected = flatten_dict(found, sep="/"), flatten_dict(expected, sep="/")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert type(found[key]) is np.ndarray and found[key].dtype == np.float32, key
        assert found[key].shape == value.shape and found[key].tobytes() == value.tobytes(), key


def torch_file(path: Path, content: Any) -> Path:
    """A checkpoint as torch writes it; its arrays become tensors."""
    records: dict[str, bytes] = {}

    def spelt(value: Any) -> Any:
        match value:
            case dict():
                return {key: spelt(item) for key, item in value.items()}
            case list():
                return [spelt(item) for item in value]
            case np.ndarray():
                key = str(len(records))
                records[key] = value.tobytes()
                strides = [int(np.prod(value.shape[i + 1 :])) for i in range(value.ndim)]
                storage = Storage(KINDS[value.dtype.name], key, value.size)
                return tensor(storage, value.shape, tuple(strides))
        return value

    return write_zip(path, spelt(content), records)


def torch_tensors(name: str, **changes: Any) -> dict[str, np.ndarray]:
    """A state dict of random numbers, by torch's names."""
    rng = np.random.default_rng(1)
    shapes = torch_shapes(name, 10, **changes)
    return {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}


def says(error: pytest.ExceptionInfo, *parts: str) -> str:
    """Returns the message, which must have all the parts."""
    message = str(error.value)
    for part in parts:
        assert part in message
    return message


# --- round trips ---------------------------------------------------------------------------------

ROUND_TRIPS: dict[str, tuple[str, dict[str, Any]]] = {
    "test_resnet": ("test_resnet", {}),
    "CIFAR": (CIFAR, {}),
    "v2": ("resnetv2_18", SHALLOW),
    "GroupNorm": ("resnet50_gn", SHALLOW),
    "LeNet": ("lenet5", {}),
    "SE": ("seresnet50t", {**SHALLOW, "width": 16}),
    "ECA": ("ecaresnet26t", {**SHALLOW, "width": 16}),
    "RS": ("resnetrs50", {**SHALLOW, "width": 16}),
    "3x3 projections": ("senet154", {"depths": (1, 1), "width": 32, "groups": 8}),
}


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_round_trip(case, suffix, tmp_path):
    name, changes = ROUND_TRIPS[case]
    variables = random_variables(name, 7, **changes)
    path = tmp_path / f"a.{suffix}"
    assert save_weights(variables, path, name, **changes) is None
    assert os.listdir(tmp_path) == [f"a.{suffix}"]
    same(load_weights(path, name, 7, **changes), {"batch_stats": {}, **variables})
    assert ("batch_stats" in variables) == (case not in ("GroupNorm", "LeNet"))
    # the size of the numbers, plus their names
    size = sum(x.nbytes for x in jax.tree.leaves(variables))
    assert size < path.stat().st_size < size + 600 * len(jax.tree.leaves(variables))


def test_classes_are_those_of_the_name_unless_given(tmp_path):
    path = tmp_path / "a.npz"
    save_weights(random_variables("test_resnet", 1000), path, "test_resnet")
    assert load_weights(str(path), "test_resnet")["params"]["head"]["bias"].shape == (1000,)
    save_weights(random_variables(CIFAR, 10), path, CIFAR)
    assert load_weights(path, CIFAR)["params"]["head"]["bias"].shape == (10,)


def test_changed_networks(tmp_path):
    """Fields of the spec by keyword, in saving and in loading; lists work like tuples."""
    changes = {"width": 8, "depths": [2, 1], "shortcut": "B"}
    variables = random_variables(CIFAR, 3, width=8, depths=(2, 1), shortcut="B")
    for path in (tmp_path / "a.safetensors", tmp_path / "a.npz"):
        save_weights(variables, path, CIFAR, **changes)
        same(load_weights(path, CIFAR, 3, **changes), variables)
        with pytest.raises(WeightsError, match=f"not the weights of {CIFAR}"):
            load_weights(path, CIFAR, 3)
        with pytest.raises(WeightsError, match=f"not the weights of {CIFAR}"):
            load_weights(path, CIFAR, 3, **{**changes, "width": 16})
    with pytest.raises(WeightsError, match=f"variables that are not those of {CIFAR}"):
        save_weights(variables, tmp_path / "b.npz", CIFAR)
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_kinds_of_variables(suffix, tmp_path):
    """Of JAX, of NumPy, frozen; transposed in memory; and read-only."""
    variables = random_variables(CIFAR)
    backwards = jax.tree.map(lambda x: np.asfortranarray(x), variables)
    jax.tree.map(lambda x: x.setflags(write=False), backwards)
    path = tmp_path / f"a.{suffix}"
    for given in (jax.tree.map(jnp.asarray, variables), freeze(variables), backwards):
        save_weights(given, path, CIFAR)
        loaded = load_weights(path, CIFAR)
        same(loaded, variables)
        path.unlink()
    assert all(leaf.flags.writeable for leaf in jax.tree.leaves(loaded))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_files_are_float32(dtype, suffix, tmp_path):
    variables = jax.tree.map(lambda x: x.astype(dtype), random_variables(CIFAR))
    path = tmp_path / f"a.{suffix}"
    save_weights(variables, path, CIFAR)
    with np.load(path) if suffix == "npz" else _opened(path) as tensors:
        found = {tensors[key].dtype for key in tensors if not key.endswith("_tracked")}
    assert found == {np.dtype(np.float32)}
    same(load_weights(path, CIFAR), jax.tree.map(lambda x: x.astype(np.float32), variables))


def _opened(path: Path) -> Any:
    from contextlib import nullcontext

    return nullcontext(load_file(path))


def test_not_a_number_is_a_number(tmp_path):
    variables = random_variables(CIFAR)
    variables["params"]["head"]["bias"][3:5] = np.nan, np.inf
    for path in (tmp_path / "a.safetensors", tmp_path / "a.npz"):
        save_weights(variables, path, CIFAR)
        same(load_weights(path, CIFAR), variables)


# --- usual checkpoints ---------------------------------------------------------------------------

A, B = (np.full((2, 3), value, np.float32) for value in (1, 2))


def read(path: Path, content: Any) -> dict[str, list]:
    return {key: value.tolist() for key, value in read_tensors(torch_file(path, content)).items()}


@pytest.mark.parametrize(
    "wrapper", ["state_dict", "model", "model_ema", "state_dict_ema", "ema_state_dict"]
)
def test_wrappers(wrapper, tmp_path):
    rest = {"epoch": 3, "arch": "resnet8", "best": 0.9, "loss": A, "args": {"lr": 0.1}}
    state = {"state": {0: {"momentum_buffer": B, "step": 3}}, "param_groups": [{"params": [0]}]}
    for content in (
        {wrapper: {"w": A}},
        {**rest, "optimizer": state, wrapper: {"w": A}, "scheduler": None},
        {"state_dict": {wrapper: {"w": A}}},
    ):
        assert read(tmp_path / "a.pth", content) == {"w": A.tolist()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".bin", ".pth.tar", ""])
def test_suffixes_of_torch_files(suffix, tmp_path):
    assert read(tmp_path / f"a{suffix}", {"w": A}) == {"w": A.tolist()}


@pytest.mark.parametrize(
    "better, worse",
    [
        ("model_ema", "model"),
        ("state_dict_ema", "state_dict"),
        ("ema_state_dict", "state_dict"),
        ("model_ema", "state_dict"),
    ],
)
def test_averaged_weights_are_preferred(better, worse, tmp_path):
    path, wanted = tmp_path / "a.pth", {"w": A.tolist()}
    assert read(path, {better: {"w": A}, worse: {"w": B}}) == wanted
    assert read(path, {worse: {"w": B}, better: {"w": A}}) == wanted
    assert read(path, {better: None, worse: {"w": A}}) == wanted  # a run without an average


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes(prefix, tmp_path):
    content = {"state_dict": {f"{prefix}conv1.weight": A, f"{prefix}a.module.b": B}}
    wanted = {"conv1.weight": A.tolist(), "a.module.b": B.tolist()}
    assert read(tmp_path / "a.pth", content) == wanted
    save_file(content["state_dict"], tmp_path / "a.safetensors")
    assert {k: v.tolist() for k, v in read_tensors(tmp_path / "a.safetensors").items()} == wanted


def test_counters_are_ignored(tmp_path):
    """torchvision's average of a network: AveragedModel counts, and so does BatchNorm."""
    count = np.array(2**40)
    state = {"module.bn1.weight": A, "module.bn1.num_batches_tracked": count, "n_averaged": count}
    assert read(tmp_path / "a.pth", {"model_ema": state}) == {"bn1.weight": A.tolist()}
    save_file(state, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors").keys() == {"bn1.weight"}


def test_networks_for_cifar_from_elsewhere(tmp_path):
    """As akamaster/pytorch_resnet_cifar10 saves them: wrapped, parallel, the head is `linear`."""
    variables, tensors = random_variables(CIFAR), {}
    save_weights(variables, tmp_path / "a.safetensors", CIFAR)
    for key, value in load_file(tmp_path / "a.safetensors").items():
        tensors["module." + key.replace("fc.", "linear.")] = value
    assert "module.linear.weight" in tensors
    path = torch_file(tmp_path / "a.th", {"state_dict": tensors, "best_prec1": 92.6})
    same(load_weights(path, CIFAR), variables)
    same(load_weights(path, CIFAR)["params"]["head"], variables["params"]["head"])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64"])
def test_every_type_becomes_float32(dtype, tmp_path):
    given = np.array([1, -2, 3000, 0.1], np.float32).astype(dtype)
    wanted = given.astype(np.float32)
    torch_file(tmp_path / "a.pth", {"state_dict": {"w": given}})
    save_file({"w": given}, tmp_path / "a.safetensors")
    files = ["a.pth", "a.safetensors"]
    if dtype != "bfloat16":  # which .npz has not
        np.savez(tmp_path / "a.npz", w=given)
        files.append("a.npz")
    for file in files:
        found = read_tensors(tmp_path / file)["w"]
        assert found.dtype == np.float32 and found.tolist() == wanted.tolist(), file
    if dtype == "float64":
        assert found[3] == np.float32(0.1)


def test_tensors_in_memory():
    tensors = torch_tensors(CIFAR)
    variables = from_tensors(tensors, CIFAR)
    conv = variables["params"]["backbone"]["stage2"]["block1"]["conv1"]["kernel"]
    np.testing.assert_array_equal(conv, tensors["layer2.0.conv1.weight"].transpose(2, 3, 1, 0))
    same(from_tensors(flatten_dict(variables, sep="/"), CIFAR), variables)


# --- a new head ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("case", ["test_resnet", "v2", "LeNet"])
def test_a_new_head(case, suffix, tmp_path):
    name, changes = ROUND_TRIPS[case]
    variables = random_variables(name, 7, **changes)
    path = tmp_path / f"a.{suffix}"
    save_weights(variables, path, name, **changes)
    for classes in (7, 12, 1):
        loaded = load_weights(path, name, classes, head="reset", **changes)
        head = loaded["params"].pop("head")
        features = variables["params"]["head"]["kernel"].shape[0]
        assert head.keys() == {"kernel", "bias"}
        kernel, bias = head["kernel"], head["bias"]
        assert kernel.shape == (features, classes) and bias.shape == (classes,)
        assert kernel.dtype == bias.dtype == np.float32 and not bias.any()
        # uniform in +-1/sqrt(features), as a network starts
        assert 0.9 < np.abs(kernel).max() * features**0.5 <= 1 and abs(kernel.mean()) < 0.05
        backbone = {**variables, "params": {"backbone": variables["params"]["backbone"]}}
        same(loaded, {"batch_stats": {}, **backbone})
    default = load_weights(path, name, head="reset", **changes)["params"]["head"]["bias"]
    assert default.shape == (10 if name == "lenet5" else 1000,)


def test_a_new_head_for_a_file_without_one():
    tensors = torch_tensors(CIFAR)
    headless = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
    variables = from_tensors(headless, CIFAR, 3, head="reset")
    assert variables["params"]["head"]["kernel"].shape == (64, 3)
    same(variables["params"]["backbone"], from_tensors(tensors, CIFAR)["params"]["backbone"])
    with pytest.raises(WeightsError) as caught:
        from_tensors(headless, CIFAR, 3)
    message = says(caught, "2 missing: fc.bias; fc.weight\n", "head='reset' initialises a new one")
    assert "num_classes" not in message


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("name", ["test_resnet", "resnetv2_18"])
def test_head_of_another_size(name, suffix, tmp_path):
    changes = SHALLOW if name == "resnetv2_18" else {}
    path = tmp_path / f"a.{suffix}"
    save_weights(random_variables(name, 7, **changes), path, name, **changes)
    with pytest.raises(WeightsError) as caught:
        load_weights(path, name, **changes)
    message = says(caught, f"{path}: not the weights of {name}\n  2 of another shape: ")
    assert "(7,), not (1000,)" in message and "missing" not in message
    assert message.endswith(
        "\n  Only the head differs: num_classes=... loads it, head='reset' initialises a new one"
    )


def test_other_differences_give_no_hint_about_the_head():
    """Neither if the head differs too, nor because an SE layer has an `fc1`."""
    tensors = torch_tensors("test_resnet", attention="se")
    tensors["layer1.0.se.fc1.weight"] = tensors["layer1.0.se.fc1.weight"][:, :5]
    tensors["fc.weight"] = tensors["fc.weight"][:5]
    with pytest.raises(WeightsError) as caught:
        from_tensors(tensors, "test_resnet", 10, attention="se")
    message = says(
        caught, "2 of another shape: ", "layer1.0.se.fc1.weight (8, 5, 1, 1), not (8, 32, 1, 1)"
    )
    assert "head" not in message


@pytest.mark.parametrize("head", ["other", "", None, True])
def test_no_such_head(head, tmp_path):
    save_weights(random_variables(CIFAR), tmp_path / "a.npz", CIFAR)
    with pytest.raises(ValueError, match=re.escape(f"head {head!r}: choose from 'keep', 'reset'")):
        load_weights(tmp_path / "a.npz", CIFAR, head=head)


# --- wrong files --------------------------------------------------------------------------------

SUFFIXES = (".safetensors", ".npz", ".pth")
STATS = "batch_stats/backbone"
