"""resnet_jax/weights.py: torch's names, round trips, checkpoints as people have them, mistakes.

That torch itself agrees is checked in tests/parity; nothing here needs it.
"""

import os
import pickle
import re
import resource
from collections.abc import Callable
from functools import lru_cache
from itertools import product
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
from resnet_jax.torch_file import UnsafeFile
from resnet_jax.weights import read_tensors, torch_shapes
from tests.test_torch_file import Call, Name, Storage, tensor, write_zip

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
    """Float32, all different, so that no tensor and no axis can stand in for another."""
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
    """The message, which has all the parts."""
    message = str(error.value)
    for part in parts:
        assert part in message
    return message


# --- names ---------------------------------------------------------------------------------------


def names(convs: str, norms: str, dense: str, statistics: bool = True) -> set[str]:
    """Names of tensors: of modules with a weight alone, of norms, of modules with a bias too.

    Each of [abc] stands for one name with every letter, as in a shell.
    """
    norm = ("weight", "bias") + ("running_mean", "running_var") * statistics
    kinds = ((convs, ("weight",)), (norms, norm), (dense, ("weight", "bias")))
    return {
        "".join(parts) + f".{leaf}"
        for modules, leaves in kinds
        for module in modules.split()
        for parts in product(*_choices(module))
        for leaf in leaves
    }


def _choices(module: str) -> list[Any]:
    return [part if i % 2 else [part] for i, part in enumerate(re.split(r"\[(.*?)\]", module))]


DEEP = "conv1.[036]", "conv1.[14] bn1"
CONVS, NORMS = "layer[1234].0.conv[123]", "layer[1234].0.bn[123]"
PLAIN = f"conv1 {CONVS} layer[1234].0.downsample.0", f"bn1 {NORMS} layer[1234].0.downsample.1"
D = (
    f"{DEEP[0]} {CONVS} layer[1234].0.downsample.1",
    f"{DEEP[1]} {NORMS} layer[1234].0.downsample.2",
)
SE = "fc layer[1234].0.se.fc[12]"
V2 = "stages.[0123].blocks.0"
V2_BASIC = f"{V2}.conv[12] stages.[123].blocks.0.downsample.conv", f"norm {V2}.norm[12]"
V2_BOTTLENECK = f"{V2}.conv[123] {V2}.downsample.conv", f"norm {V2}.norm[123]"
NAMES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "basic": (
        "resnet18",
        {},
        names(
            "conv1 layer[1234].[01].conv[12] layer[234].0.downsample.0",
            "bn1 layer[1234].[01].bn[12] layer[234].0.downsample.1",
            "fc",
        ),
    ),
    "bottleneck": ("resnet50", SHALLOW, names(*PLAIN, "fc")),
    "C": (
        "resnet50c",
        SHALLOW,
        names(
            f"{DEEP[0]} {CONVS} layer[1234].0.downsample.0",
            f"{DEEP[1]} {NORMS} layer[1234].0.downsample.1",
            "fc",
        ),
    ),
    "D": ("resnet50d", SHALLOW, names(*D, "fc")),
    "tiered": ("resnet50t", SHALLOW, names(*D, "fc")),
    "blur": ("resnetblur50", SHALLOW, names(*PLAIN, "fc")),
    "RS": ("resnetrs50", SHALLOW, names(f"{D[0]} maxpool.0", f"{D[1]} maxpool.1", SE)),
    "RS, anti-aliased": (
        "resnetrs50",
        {**SHALLOW, "anti_alias": "avg"},
        names(f"{D[0]} maxpool.0", f"{D[1]} maxpool.2", SE),
    ),
    "SE": ("seresnext50_32x4d", SHALLOW, names(*PLAIN, SE)),
    "ECA": ("ecaresnet50t", SHALLOW, names(f"{D[0]} layer[1234].0.se.conv", D[1], "fc")),
    "GroupNorm": ("resnet50_gn", SHALLOW, names(*PLAIN, "fc", statistics=False)),
    "mixed": (
        "test_resnet",
        {},
        names(
            f"{DEEP[0]} layer[124].0.conv[12] layer3.0.conv[123] layer[234].0.downsample.1",
            f"{DEEP[1]} layer[124].0.bn[12] layer3.0.bn[123] layer[234].0.downsample.2",
            "fc",
        ),
    ),
    "plain": (
        "plain18",
        {},
        names("conv1 layer[1234].[01].conv[12]", "bn1 layer[1234].[01].bn[12]", "fc"),
    ),
    "CIFAR, A": (CIFAR, {}, names("conv1 layer[123].0.conv[12]", "bn1 layer[123].0.bn[12]", "fc")),
    "CIFAR, B": (
        CIFAR,
        {"shortcut": "B"},
        names(
            "conv1 layer[123].0.conv[12] layer[23].0.downsample.0",
            "bn1 layer[123].0.bn[12] layer[23].0.downsample.1",
            "fc",
        ),
    ),
    "v2": ("resnetv2_18", SHALLOW, names(f"stem.conv {V2_BASIC[0]}", V2_BASIC[1], "head.fc")),
    "v2 D": (
        "resnetv2_50d",
        SHALLOW,
        names(f"stem.conv[123] {V2_BOTTLENECK[0]}", f"stem.norm[12] {V2_BOTTLENECK[1]}", "head.fc"),
    ),
    "BiT": (
        "resnetv2_50x1_bit",
        SHALLOW,
        names(f"stem.conv {V2_BOTTLENECK[0]}", V2_BOTTLENECK[1], "head.fc", statistics=False),
    ),
    "v2 with SE": (
        "resnetv2_18",
        {**SHALLOW, "attention": "se"},
        names(f"stem.conv {V2_BASIC[0]}", V2_BASIC[1], f"head.fc {V2}.se.fc[12]"),
    ),
    "LeNet": ("lenet5", {}, names("", "", "conv[1234] fc")),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_of_torch(case):
    name, changes, expected = NAMES[case]
    assert torch_shapes(name, **changes).keys() == expected


def test_shapes_of_torch():
    shapes = torch_shapes("resnet18")
    assert shapes["conv1.weight"] == (64, 3, 7, 7) and shapes["fc.weight"] == (1000, 512)
    assert shapes["layer2.0.conv1.weight"] == (128, 64, 3, 3)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer2.0.downsample.1.running_var"] == (128,)
    # 11,689,512 parameters as everybody knows, and the statistics of 4,800 channels
    assert sum(map(np.prod, shapes.values())) == 11_689_512 + 2 * 4_800
    shapes = torch_shapes("seresnext50_32x4d", 7, **SHALLOW)
    assert shapes["layer1.0.conv2.weight"] == (128, 4, 3, 3) and shapes["fc.bias"] == (7,)
    assert shapes["layer4.0.se.fc1.weight"] == (128, 2048, 1, 1)
    assert shapes["layer4.0.se.fc2.weight"] == (2048, 128, 1, 1)
    assert shapes["layer4.0.se.fc2.bias"] == (2048,)
    assert torch_shapes("ecaresnet50t", **SHALLOW)["layer1.0.se.conv.weight"] == (1, 1, 5)
    assert torch_shapes("resnetv2_18")["head.fc.weight"] == (1000, 512, 1, 1)
    assert torch_shapes(CIFAR)["fc.weight"] == (10, 64)  # CIFAR's classes, not ImageNet's


def test_what_timm_adds_is_written_too(tmp_path):
    """122 tensors, as resnet18 has in torchvision; 20 of them count batches."""
    path = tmp_path / "a.safetensors"
    save_weights(random_variables("resnet18", 10), path, "resnet18")
    tensors = load_file(path)
    counts = {key for key in tensors if key.endswith("num_batches_tracked")}
    assert len(tensors) == 122 and len(counts) == 20 and "bn1.num_batches_tracked" in counts
    assert all(tensors[key].dtype == np.int64 and tensors[key] == 0 for key in counts)
    save_weights(random_variables("lenet5"), path, "lenet5")
    assert load_file(path).keys() == NAMES["LeNet"][2]


def test_axes_of_torch(tmp_path):
    """Output, input, row, column."""
    path = tmp_path / "a.safetensors"
    variables = random_variables("test_resnet", 7, attention="se")
    save_weights(variables, path, "test_resnet", attention="se")
    tensors, backbone = load_file(path), variables["params"]["backbone"]
    block = backbone["stage3"]["block1"]
    assert tensors["conv1.0.weight"][5, 2, 0, 1] == backbone["stem_conv1"]["kernel"][0, 1, 2, 5]
    assert tensors["layer3.0.se.fc1.weight"][3, 9, 0, 0] == block["se"]["fc1"]["kernel"][9, 3]
    assert tensors["layer3.0.se.fc2.bias"][9] == block["se"]["fc2"]["bias"][9]
    assert tensors["fc.weight"][6, 90] == variables["params"]["head"]["kernel"][90, 6]
    stats = variables["batch_stats"]["backbone"]["stage3"]["block1"]["shortcut_norm"]
    assert tensors["layer3.0.downsample.2.running_mean"][7] == stats["mean"][7]
    assert tensors["layer3.0.downsample.2.running_var"][7] == stats["var"][7]

    variables = random_variables("resnetv2_18", 7, attention="eca", **SHALLOW)
    save_weights(variables, path, "resnetv2_18", attention="eca", **SHALLOW)
    tensors, block = load_file(path), variables["params"]["backbone"]["stage2"]["block1"]
    assert tensors["head.fc.weight"][6, 90, 0, 0] == variables["params"]["head"]["kernel"][90, 6]
    assert tensors["stages.1.blocks.0.se.conv.weight"][0, 0, 2] == block["eca"]["kernel"][2, 0, 0]
    assert tensors["stages.1.blocks.0.norm2.weight"][3] == block["norm2"]["scale"][3]


def test_names_of_ours(tmp_path):
    variables = random_variables(CIFAR)
    save_weights(variables, tmp_path / "a.npz", CIFAR)
    with np.load(tmp_path / "a.npz") as file:
        same(dict(file), flatten_dict(variables, sep="/"))
        assert "params/backbone/stage1/block1/conv1/kernel" in file


# --- there and back ------------------------------------------------------------------------------

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
def test_there_and_back(case, suffix, tmp_path):
    name, changes = ROUND_TRIPS[case]
    variables = random_variables(name, 7, **changes)
    path = tmp_path / f"a.{suffix}"
    assert save_weights(variables, path, name, **changes) is None
    assert os.listdir(tmp_path) == [f"a.{suffix}"]
    same(load_weights(path, name, 7, **changes), {"batch_stats": {}, **variables})
    assert ("batch_stats" in variables) == (case not in ("GroupNorm", "LeNet"))
    # as large as the numbers alone, but for their names
    size = sum(x.nbytes for x in jax.tree.leaves(variables))
    assert size < path.stat().st_size < size + 600 * len(jax.tree.leaves(variables))


def test_classes_are_those_of_the_name_unless_given(tmp_path):
    path = tmp_path / "a.npz"
    save_weights(random_variables("test_resnet", 1000), path, "test_resnet")
    assert load_weights(str(path), "test_resnet")["params"]["head"]["bias"].shape == (1000,)
    save_weights(random_variables(CIFAR, 10), path, CIFAR)
    assert load_weights(path, CIFAR)["params"]["head"]["bias"].shape == (10,)


def test_changed_networks(tmp_path):
    """Fields of the spec by keyword, in saving and in loading; lists are as good as tuples."""
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


# --- checkpoints as people have them -------------------------------------------------------------

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


def test_counters_are_left_aside(tmp_path):
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
    message = says(caught, "2 missing: fc.bias; fc.weight\n", "head='reset' starts a new one")
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
        "\n  Only the head differs: num_classes=... takes it as it is, head='reset' starts a new "
        "one"
    )


def test_another_misfit_gets_no_advice_about_the_head():
    """Neither with the head beside it, nor because an SE layer has an `fc1`."""
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


# --- files that are not what they should be ------------------------------------------------------

SUFFIXES = (".safetensors", ".npz", ".pth")
STATS = "batch_stats/backbone"


def write(path: Path) -> Path:
    """Weights of `CIFAR`."""
    if path.suffix == ".pth":
        return torch_file(path, torch_tensors(CIFAR))
    save_weights(random_variables(CIFAR), path, CIFAR)
    return path


def refused(path: Path, *parts: str) -> None:
    """Both readers say what is wrong with the file, and begin with its name."""
    readers: tuple[Callable, ...] = (read_tensors, lambda file: load_weights(file, CIFAR))
    for reader in readers:
        with pytest.raises(WeightsError) as caught:
            reader(path)
        message = says(caught, *parts)
        assert message.startswith(f"{path}: ") and message.count(str(path)) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_file(suffix, tmp_path):
    for path in (tmp_path / f"none{suffix}", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(path))}: no such file$"):
            load_weights(path, CIFAR)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_cut_short(suffix, tmp_path):
    path = write(tmp_path / f"a{suffix}")
    load_weights(path, CIFAR)
    data = path.read_bytes()
    what = {
        ".safetensors": "not a complete safetensors file (",
        ".npz": "not a complete npz file",
        ".pth": "",
    }
    for length in (0, 1, 7, 100, len(data) // 2, len(data) - 1000, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError) as caught:
            read_tensors(path)
        assert says(caught, what[suffix]).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/v1\n", "[1]", "\n"])
def test_text(text, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_text(text)
    what = {".safetensors": "safetensors file", ".npz": "npz file", ".pth": "no torch file"}
    refused(path, what[suffix])
    with pytest.raises(WeightsError) as caught:
        read_tensors(path)
    assert "pickle" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_npz(compressed, tmp_path):
    """Every byte in turn: either it is read, or there is one clear error."""
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    (np.savez_compressed if compressed else np.savez)(good, w=np.arange(30.0))
    data, errors = good.read_bytes(), 0
    for place in range(len(data)):
        bad.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            read_tensors(bad)
        except WeightsError as error:
            assert str(error).startswith(f"{bad}: ")
            errors += 1
    assert errors > len(data) / 4


class Marker:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_npz_with_pickled_objects(tmp_path):
    path, mark = tmp_path / "a.npz", tmp_path / "it-ran"
    objects = np.empty(1, object)
    objects[0] = Marker(mark)
    np.savez(path, allow_pickle=True, w=np.zeros(3), evil=objects)
    refused(path, "Object arrays cannot be loaded")
    assert not mark.exists()
    with np.load(path, allow_pickle=True) as file:
        assert file["evil"].shape == (1,) and mark.exists()


def test_pickle_that_holds_code(tmp_path):
    path, mark = tmp_path / "a.pth", tmp_path / "it-ran"
    call = Call(Name(f"{os.name}.mkdir"), (str(mark),))
    for content in ({"state_dict": {"w": A}, "args": call}, call):
        torch_file(path, content)
        with pytest.raises(UnsafeFile) as caught:
            load_weights(path, CIFAR)
        assert says(caught, f"refuses to load {os.name}.mkdir").startswith(f"{path}: ")
    path.write_bytes(pickle.dumps(Marker(mark), 2))
    with pytest.raises(UnsafeFile, match="mkdir"):
        load_weights(path, CIFAR)
    assert not mark.exists()


def test_npz_of_something_else(tmp_path):
    path = tmp_path / "a.npz"
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(path)
    refused(path, "not a complete npz file")
    torch_file(path, {"w": A})
    refused(path, "'archive/data.pkl' is of type bytes")
    np.savez(path, w=np.zeros(3), name=np.array("resnet"))
    refused(path, "'name' is of type <U6")
    np.savez(path, w=np.array([1j]))
    refused(path, "'w' is of type complex128")
    np.savez(path)
    refused(path, "holds an empty dict, not a state dict")


def test_checkpoint_of_something_else(tmp_path):
    path = tmp_path / "a.pth"
    cases: list[tuple[Any, str]] = [
        ({}, "holds an empty dict, not a state dict"),
        ({"epoch": 1, "state_dict": {}}, "holds an empty dict, not a state dict"),
        ([A], "holds a list, not a state dict"),
        (A, "holds a ndarray, not a state dict"),
        (None, "holds a NoneType, not a state dict"),
        ({"state_dict": {"w": A, "lr": 0.1}}, "holds no state dict: 'lr' is of type float"),
        ({"state_dict": {"w": [A]}}, "'w' is of type list"),
        ({"state_dict": None}, "'state_dict' is of type NoneType"),
        ({"network": {"w": A}}, "'state_dict', 'model'"),
        ({0: A}, "holds no state dict: 0 is of type"),
    ]
    for content, part in cases:
        torch_file(path, content)
        refused(path, part)


# --- weights of something else -------------------------------------------------------------------


def test_misfits_are_listed(tmp_path):
    """The first three of each kind, and how many there are."""
    tensors = torch_tensors(CIFAR)
    for key in ("bn1.weight", "bn1.bias"):
        del tensors[key]
    tensors |= {f"layer4.0.conv{i}.weight": A for i in (1, 2, 3, 4)}
    tensors["conv1.weight"] = tensors["conv1.weight"].transpose(2, 3, 1, 0)
    torch_file(tmp_path / "a.pth", tensors)
    with pytest.raises(WeightsError) as caught:
        load_weights(tmp_path / "a.pth", CIFAR)
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'a.pth'}: not the weights of {CIFAR}",
        "  2 missing: bn1.bias; bn1.weight",
        "  4 unexpected: layer4.0.conv1.weight; layer4.0.conv2.weight; layer4.0.conv3.weight ...",
        "  1 of another shape: conv1.weight (3, 3, 3, 16), not (16, 3, 3, 3)",
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_of_another_network(suffix, tmp_path):
    path = write(tmp_path / f"a{suffix}")
    with pytest.raises(WeightsError) as caught:
        load_weights(path, "resnet14_cifar")
    first = "layer1.1.bn1.running_mean" if suffix != ".npz" else f"{STATS}/stage1/block2/norm1/mean"
    message = says(caught, f"{path}: not the weights of resnet14_cifar\n  30 missing: {first}; ")
    assert "unexpected" not in message and "shape" not in message  # resnet8 is a part of it
    with pytest.raises(WeightsError) as caught:
        load_weights(path, CIFAR, width=8)
    message = says(caught, f"not the weights of {CIFAR}\n  36 of another shape: ")  # bias is not
    assert "missing" not in message and "head='reset'" not in message
    with pytest.raises(WeightsError) as caught:
        load_weights(path, "resnetv2_18", head="reset", **SHALLOW)
    says(caught, "not the weights of resnetv2_18\n", " missing: ", " unexpected: ")


def test_one_tensor_too_many_or_too_few():
    """No tensor is taken or left without a word."""
    tensors = torch_tensors(CIFAR)
    for key in tensors:
        rest = {other: value for other, value in tensors.items() if other != key}
        advice = "\n  Only the head" if key.startswith("fc.") else "$"
        with pytest.raises(WeightsError, match=f"\n  1 missing: {re.escape(key)}{advice}"):
            from_tensors(rest, CIFAR)
    with pytest.raises(WeightsError, match=r"\n  1 unexpected: extra$"):
        from_tensors({**tensors, "extra": A}, CIFAR)
    ours = flatten_dict(from_tensors(tensors, CIFAR), sep="/")
    with pytest.raises(WeightsError, match=r"\n  1 unexpected: fc\.weight$"):
        from_tensors({**ours, "fc.weight": A}, CIFAR)  # ours and torch's at once
    with pytest.raises(WeightsError, match=r"37 missing: .*"):
        from_tensors({}, CIFAR)


def test_unknown_names_and_fields(tmp_path):
    path, tensors = write(tmp_path / "a.npz"), torch_tensors(CIFAR)
    variables = random_variables(CIFAR)
    calls: tuple[Callable, ...] = (
        lambda name, **changes: load_weights(path, name, **changes),
        lambda name, **changes: from_tensors(tensors, name, **changes),
        lambda name, **changes: save_weights(variables, tmp_path / "b.npz", name, **changes),
        lambda name, **changes: torch_shapes(name, **changes),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"unknown model 'resnet8_cif': .*mean resnet8_cifar"):
            call("resnet8_cif")
        with pytest.raises(ValueError, match=r"unknown option 'widht' of .*choose from .*width"):
            call(CIFAR, widht=[8])
        with pytest.raises(ValueError, match="width 'wide': needs int"):
            call(CIFAR, width="wide")
    for call in calls[:2]:
        with pytest.raises(ValueError, match="num_classes 0: must be at least 1"):
            call(CIFAR, num_classes=0)
    assert os.listdir(tmp_path) == ["a.npz"]


# --- saving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["a.pth", "a", "a.npz.gz", "a.NPZ", ".npz"])
def test_other_suffixes(file, tmp_path):
    path = tmp_path / file
    message = f"{path}: choose from the suffixes .safetensors, .npz"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        save_weights(random_variables(CIFAR), path, CIFAR)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_variables_of_another_network(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_text("before")
    with pytest.raises(WeightsError) as caught:
        save_weights(random_variables(CIFAR), path, "resnet14_cifar")
    says(
        caught,
        "variables that are not those of resnet14_cifar\n  30 missing: ",
        f"{STATS}/stage1/block2/norm1/mean; ",
    )
    variables = random_variables(CIFAR)
    cases = [
        ({"params": variables["params"]}, "14 missing: "),
        ({**variables, "opt_state": [A]}, "1 unexpected: opt_state/0"),
        (variables["params"], "37 missing: "),
        ({}, "37 missing: "),
        ({"params": {"head": {"bias": A}}}, "missing: "),
    ]
    for given, part in cases:
        with pytest.raises(WeightsError) as caught:
            save_weights(given, path, CIFAR)
        says(caught, f"variables that are not those of {CIFAR}", part)
    variables["params"]["head"]["bias"] = np.zeros(11, np.float32)
    with pytest.raises(WeightsError) as caught:
        save_weights(variables, path, CIFAR)
    message = says(caught, "params/head/kernel (64, 10), not (64, 11)")
    assert "head='reset'" not in message  # that is advice for who loads
    assert path.read_text() == "before" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_full_disk_leaves_the_old_file(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    old = random_variables(CIFAR)
    save_weights(old, path, CIFAR)
    new = jax.tree.map(np.zeros_like, old)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a third of the file
    try:
        with pytest.raises(OSError, match="File too large"):
            save_weights(new, path, CIFAR)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == [path.name]
    same(load_weights(path, CIFAR), old)
    # Whoever has the old file open goes on reading that.
    os.link(path, tmp_path / f"open.{suffix}")
    save_weights(new, path, CIFAR)
    same(load_weights(path, CIFAR), new)
    same(load_weights(tmp_path / f"open.{suffix}", CIFAR), old)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_no_such_folder(suffix, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"none/a.{suffix}"):
        save_weights(random_variables(CIFAR), tmp_path / "none" / f"a.{suffix}", CIFAR)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_others_may_read_the_file(suffix, tmp_path):
    """As far as the umask lets them."""
    before = os.umask(0o027)
    try:
        save_weights(random_variables(CIFAR), tmp_path / f"a.{suffix}", CIFAR)
    finally:
        os.umask(before)
    assert (tmp_path / f"a.{suffix}").stat().st_mode & 0o777 == 0o640
