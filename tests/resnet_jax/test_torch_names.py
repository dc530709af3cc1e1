"""resnet_jax/weights/convert.py: the names, shapes and axes of torch's tensors."""

import re
from itertools import product
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from resnet_jax import (
    save_weights,
)
from resnet_jax.weights.convert import torch_shapes
from tests.resnet_jax.test_convert import CIFAR, SHALLOW, random_variables, same

# --- names ---------------------------------------------------------------------------------------


def names(convs: str, norms: str, dense: str, statistics: bool = True) -> set[str]:
    """Names of tensors: of modules with a weight alone, of norms, of modules with a bias too.

    [abc] expands to one name for each letter, as in a shell.
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
    # 11,689,512 parameters, and the statistics of 4,800 channels
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


def test_names_of_our_layout(tmp_path):
    variables = random_variables(CIFAR)
    save_weights(variables, tmp_path / "a.npz", CIFAR)
    with np.load(tmp_path / "a.npz") as file:
        same(dict(file), flatten_dict(variables, sep="/"))
        assert "params/backbone/stage1/block1/conv1/kernel" in file
