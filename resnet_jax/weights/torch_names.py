"""Names and axis orders of a network's variables in files: our paths, or torch's names."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from resnet_jax.spec import LeNetSpec, ResNetSpec, Spec

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


class Tensor(NamedTuple):
    """One tensor of a file, and the variable that it holds."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    """Axes of the variable, in the order of the file."""

    def read(self, tensor: np.ndarray) -> np.ndarray:
        """Converts the file's tensor to the variable."""
        inner = tensor.reshape([tensor.shape[i] for i in range(len(self.axes))])
        turned = inner.transpose(np.argsort(self.axes))
        if turned.flags.c_contiguous:
            return np.ascontiguousarray(turned)
        # 64 output channels at a time: at once, NumPy takes four times as long for a large kernel.
        variable = np.empty(turned.shape, turned.dtype)
        for i in range(0, turned.shape[-1], 64):
            variable[..., i : i + 64] = turned[..., i : i + 64]
        return variable

    def write(self, variable: np.ndarray) -> np.ndarray:
        """Converts the variable to the file's tensor."""
        return np.ascontiguousarray(variable.transpose(self.axes)).reshape(self.shape)


def own_layout(shapes: Any) -> dict[str, Tensor]:
    """The tensors of a file in our layout: "params/backbone/stage1/block1/conv1/kernel", ..."""
    return {
        "/".join(path): Tensor(path, leaf.shape, tuple(range(len(leaf.shape))))
        for path, leaf in paths(shapes)
    }


def torch_layout(spec: Spec, shapes: Any) -> dict[str, Tensor]:
    """The tensors of a file in the layout of torchvision and timm, by torch's names."""
    layout = {}
    for path, leaf in paths(shapes):
        _, *modules, last = path
        if preact := isinstance(spec, ResNetSpec) and spec.preact:
            module = _v2_name(modules, spec)
        else:
            module = _v1_name(modules, spec)
        axes = tuple(reversed(range(leaf.ndim)))  # [H, W, in, out] -> [out, in, W, H]
        if leaf.ndim == 4:
            axes = (3, 2, 0, 1)
        shape = tuple(leaf.shape[i] for i in axes)
        if leaf.ndim == 2 and (preact or modules[-1] in ("fc1", "fc2")):
            shape += (1, 1)  # a dense layer that torch has as a 1x1 convolution
        layout[f"{module}.{_LEAVES[last]}"] = Tensor(path, shape, axes)
    return layout


def _v1_name(modules: list[str], spec: Spec) -> str:
    """The name of a module in torchvision and timm's resnet.py."""
    if modules[0] == "head":
        return "fc"
    if isinstance(spec, LeNetSpec):
        return modules[1]
    if modules[1].startswith("stage"):
        stage, block, *inner = modules[1:]
        return f"layer{stage[5:]}.{int(block[5:]) - 1}.{_in_block(inner, spec.avg_down)}"
    if modules[1] == "stem_pool_conv":
        return "maxpool.0"
    if modules[1] == "stem_pool_norm":
        return f"maxpool.{1 + (spec.anti_alias != 'none')}"
    if modules[1] == "stem_pool_act":
        return f"maxpool.{2 + (spec.anti_alias != 'none')}"
    count, number = len(spec.stem_convs()), int(modules[1][-1])
    if modules[1].startswith("stem_norm"):
        return "bn1" if number == count else f"conv1.{3 * number - 2}"
    if modules[1].startswith("stem_act"):
        return "act1" if number == count else f"conv1.{3 * number - 1}"
    return "conv1" if count == 1 else f"conv1.{3 * number - 3}"


def _in_block(inner: list[str], avg_down: bool) -> str:
    names = {
        "shortcut_conv": f"downsample.{int(avg_down)}",
        "shortcut_norm": f"downsample.{int(avg_down) + 1}",
        "eca": "se.conv",
        "se": ".".join(inner),
    }
    return names.get(inner[0]) or inner[0].replace("norm", "bn")


def _v2_name(modules: list[str], spec: ResNetSpec) -> str:
    """The name of a module in timm's resnetv2.py."""
    if modules[0] == "head":
        return "head.fc"
    if modules[1].startswith("stage"):
        stage, block, *inner = modules[1:]
        names = {"shortcut_conv": "downsample.conv", "se": ".".join(inner), "eca": "se.conv"}
        name = names.get(inner[0], inner[0])
        return f"stages.{int(stage[5:]) - 1}.blocks.{int(block[5:]) - 1}.{name}"
    if len(spec.stem_convs()) == 1 and modules[1].startswith("stem_conv"):
        return "stem.conv"
    return modules[1].replace("stem_", "stem.")


def paths(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf of a tree, with its path: ("params", "head", "bias")."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        yield tuple(jax.tree_util.keystr((key,), simple=True) for key in path), leaf
