"""ResNeXt's residual branch in its three equivalent forms, and conversion of weights between them.

Xie 2017, "Aggregated Residual Transformations" (arXiv:1611.05431), section 3.3 and figure 3:
(a) the sum of `groups` (cardinality, C) narrow bottlenecks; (b) their concatenation before one last
1x1; (c) a bottleneck with a grouped 3x3, as in `resnet.Block`. Without shortcut and final relu.
"""

import operator
from collections.abc import Mapping
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.conv import Conv
from resnet_jax.norm import BatchNorm

Variables = Mapping[str, Any]
LAYERS = ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3")
# The last 1x1 is split along its input channels, all other layers along their output channels.
AXIS = {layer: -2 if layer == "conv3" else -1 for layer in LAYERS}


def _transform(x: jax.Array, width: int, stride: int, groups: int, train: bool) -> jax.Array:
    """1x1 and 3x3, each with norm and relu, as layers of the calling module: C -> `width`."""
    x = nn.relu(BatchNorm(name="norm1")(Conv(width, 1, name="conv1")(x), train=train))
    x = Conv(width, 3, stride, groups, name="conv2")(x)
    return nn.relu(BatchNorm(name="norm2")(x, train=train))


class _Path(nn.Module):
    width: int
    stride: int
    features: int | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _transform(x, self.width, self.stride, 1, train)
        return x if self.features is None else Conv(self.features, 1, name="conv3")(x)


class _Branch(nn.Module):
    groups: int
    group_width: int
    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C_in] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        return BatchNorm(name="norm3")(self._aggregate(x, train), train=train)

    def _aggregate(self, x: jax.Array, train: bool) -> jax.Array:
        raise NotImplementedError

    def _paths(self, x: jax.Array, train: bool, features: int | None) -> list[jax.Array]:
        path = partial(_Path, self.group_width, self.stride, features)
        return [path(name=f"path{i}")(x, train=train) for i in range(1, self.groups + 1)]


class SummedBranches(_Branch):
    """Figure 3(a): `groups` paths of 1x1, 3x3, 1x1, summed and then normalised.

    The last norm follows the sum (section 4). With one norm per path, the forms would not be
    equivalent.

    Variables: `path{1..groups}/{conv1, norm1, conv2, norm2, conv3}` with kernels [1, 1, C_in, d],
    [3, 3, d, d], [1, 1, d, features], where d = `group_width`; `norm3` [features].
    """

    def _aggregate(self, x: jax.Array, train: bool) -> jax.Array:
        return reduce(operator.add, self._paths(x, train, self.features))


class ConcatenatedBranches(_Branch):
    """Figure 3(b): `groups` paths of 1x1, 3x3, concatenated before the last 1x1.

    Variables: `path{1..groups}/{conv1, norm1, conv2, norm2}` with kernels [1, 1, C_in, d],
    [3, 3, d, d], where d = `group_width`; `conv3` [1, 1, groups * d, features]; `norm3`.
    """

    def _aggregate(self, x: jax.Array, train: bool) -> jax.Array:
        x = jnp.concatenate(self._paths(x, train, None), axis=-1)
        return Conv(self.features, 1, name="conv3")(x)


class GroupedBranch(_Branch):
    """Figure 3(c): 1x1, 3x3 in `groups` groups, 1x1.

    Variables, as in a `resnet.Block`: kernels `conv1` [1, 1, C_in, D], `conv2` [3, 3, D / groups,
    D], `conv3` [1, 1, D, features], where D = `groups * group_width`; `norm1`, `norm2`, `norm3`.
    """

    def _aggregate(self, x: jax.Array, train: bool) -> jax.Array:
        x = _transform(x, self.groups * self.group_width, self.stride, self.groups, train)
        return Conv(self.features, 1, name="conv3")(x)


def to_summed(variables: Variables, groups: int) -> dict[str, Any]:
    """Converts `GroupedBranch` variables to `SummedBranches` variables.

    Path i takes the i-th slice of `group_width` output channels of every layer, and of `conv3` the
    rows that read them. The last 1x1 of (c) is a sum over its inputs; (a) splits it into paths.
    Conversion only slices, so a round trip is bit-identical, and gradients are converted likewise:
    {"params": gradients of (c)} gives the gradients of (a).

    Args:
      variables: {"params", "batch_stats"} of a `GroupedBranch`.
      groups: its number of groups.

    Raises:
      ValueError: `groups` does not divide a layer's channels, or `conv2` has another number.
    """
    return {name: _split(tree, groups, LAYERS[:5]) for name, tree in variables.items()}


def to_concatenated(variables: Variables, groups: int) -> dict[str, Any]:
    """Converts `GroupedBranch` to `ConcatenatedBranches` variables; see `to_summed`."""
    return {name: _split(tree, groups, LAYERS[:4]) for name, tree in variables.items()}


def to_grouped(variables: Variables) -> dict[str, Any]:
    """The inverse of `to_summed` and of `to_concatenated`, also bit-identical."""
    return {name: _join(tree) for name, tree in variables.items()}


def branch_of(variables: Variables, *path: str) -> dict[str, Any]:
    """The `GroupedBranch` variables of a network's v1 bottleneck block, without its shortcut.

    For example `branch_of(variables, "backbone", "stage1", "block1")`. To put a branch back into a
    block: `{**block, **branch}`.
    """
    blocks = {name: reduce(operator.getitem, path, tree) for name, tree in variables.items()}
    return {c: {n: block[n] for n in LAYERS if n in block} for c, block in blocks.items()}


def _split(tree: Variables, groups: int, own: tuple[str, ...]) -> dict[str, Any]:
    """Splits the layers `own` of one collection into paths."""
    split: dict[str, Any] = {name: layer for name, layer in tree.items() if name not in own}
    for layer, leaf, x in ((n, leaf, x) for n in own for leaf, x in tree.get(n, {}).items()):
        other = layer == "conv2" and x.shape[-2] * groups != x.shape[-1]
        if groups < 1 or x.shape[AXIS[layer]] % groups or other:
            raise ValueError(f"groups {groups}: does not divide {layer}/{leaf} {x.shape}")
        for i, piece in enumerate(jnp.split(x, groups, AXIS[layer]), start=1):
            split.setdefault(f"path{i}", {}).setdefault(layer, {})[leaf] = piece
    return split


def _join(tree: Variables) -> dict[str, Any]:
    joined: dict[str, Any] = {n: layer for n, layer in tree.items() if not n.startswith("path")}
    paths = [tree[f"path{i}"] for i in range(1, 1 + len(tree) - len(joined))]  # 2 before 10
    for name, leaves in paths[0].items() if paths else ():
        pieces = {leaf: [path[name][leaf] for path in paths] for leaf in leaves}
        joined[name] = {leaf: jnp.concatenate(x, AXIS[name]) for leaf, x in pieces.items()}
    return joined
