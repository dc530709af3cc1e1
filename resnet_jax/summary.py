"""A table of a network's layers: shapes, parameters and multiply-adds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.conv import Conv
from resnet_jax.heads.classifier import classifier
from resnet_jax.layers import Dense, EfficientChannelAttention
from resnet_jax.norm import BatchNorm, GroupNorm
from resnet_jax.spec import ResNetSpec, Spec

KINDS = {
    BatchNorm: "norm",
    GroupNorm: "norm",
    Dense: "dense",
    nn.Dense: "dense",
    EfficientChannelAttention: "attention",
    Conv: "conv",
    nn.Conv: "conv",
}


@dataclass(frozen=True)
class Layer:
    """One layer with variables."""

    path: str
    kind: str
    """"7x7/2, groups 32", "norm", "attention" or "dense"."""
    output: tuple[int, ...]
    """[H, W, C], or [K] for the head."""
    parameters: int
    multiply_adds: int
    """Multiply-adds for one image; papers call them FLOPs."""
    statistics: int
    """Number of floats in the running averages of BatchNorm."""
    repeats: int
    """How many identical blocks of the stage have this layer."""


def summarise(spec: Spec, num_classes: int = 1000, image_size: int | None = None) -> list[Layer]:
    """The layers of a classifier in the order of execution, for images [size, size, 3].

    The blocks of a stage after the first are identical, so only two blocks are traced.

    Args:
      spec: the architecture.
      num_classes: outputs of the head.
      image_size: side of the images in pixels; None: `spec.image_size`.

    Examples:
      >>> layers = summarise(ResNetSpec(depths=(3, 4, 6, 3)))
      >>> sum(layer.parameters * layer.repeats for layer in layers)
      25557032
    """
    size = spec.image_size if image_size is None else image_size
    short = spec
    if isinstance(spec, ResNetSpec):
        short = replace(spec, depths=tuple(min(depth, 2) for depth in spec.depths))
    model = classifier(short, num_classes)
    layers: list[Layer] = []

    def record(
        call: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        result = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and type(module) in KINDS:
            layers.append(_layer(module, result.shape[1:], spec))
        return result

    def init(key: jax.Array) -> Any:
        with nn.intercept_methods(record):
            return model.init(key, jnp.zeros((1, size, size, 3)), train=False)

    jax.eval_shape(init, jax.random.key(0))
    return layers


def _layer(module: nn.Module, output: tuple[int, ...], spec: Spec) -> Layer:
    variables = module.variables
    params = variables["params"]
    kernel = params["kernel"].shape if "kernel" in params else (0,)
    kind = KINDS[type(module)]
    if isinstance(module, Conv | nn.Conv):
        kind = f"{kernel[0]}x{kernel[0]}"
        if isinstance(module, Conv):
            kind += f"/{module.stride}" if module.stride > 1 else ""
            kind += f", groups {module.groups}" if module.groups > 1 else ""
            kind += f", dilation {module.dilation}" if module.dilation > 1 else ""
    path = "/".join(module.path)
    repeats = 1
    if "/block2/" in path and isinstance(spec, ResNetSpec):
        stage = int(path.split("stage")[1][0])
        repeats = spec.depths[stage - 1] - 1
    return Layer(
        path=path,
        kind=kind,
        output=output,
        parameters=_size(params),
        # The kernel of attention slides over channels, all others over pixels.
        multiply_adds=math.prod(kernel)
        * (output[-1] if kind == "attention" else math.prod(output[:-1])),
        statistics=_size(variables.get("batch_stats", {})),
        repeats=repeats,
    )


def _size(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def totals(layers: list[Layer]) -> tuple[int, int, int]:
    """(parameters, multiply-adds, floats in running averages of BatchNorm) of a network."""
    fields = ("parameters", "multiply_adds", "statistics")
    parameters, multiply_adds, statistics = (
        sum(getattr(layer, field) * layer.repeats for layer in layers) for field in fields
    )
    return parameters, multiply_adds, statistics


def groups(layers: list[Layer]) -> Iterator[tuple[str, list[Layer]]]:
    """(name, layers) of each block: "stem", "stage1/block1", ..., "head"."""
    named: dict[str, list[Layer]] = {}
    for layer in layers:
        parts = layer.path.removeprefix("backbone/").split("/")
        name = "/".join(parts[:2]) if parts[0].startswith("stage") else parts[0].split("_")[0]
        named.setdefault(name, []).append(layer)
    yield from named.items()
