"""The stacked layout: identical blocks of a stage share variables with one more axis.

In the plain layout a stage has block1, block2, ... blockN. In the stacked layout it has block1,
which may have a stride and a projection, and `blocks`, whose leaves [N - 1, ...] are those of
block2 to blockN, stacked along a first axis. Stages of less than four blocks stay plain: a loop
would not compile faster. A network with `scan` has the stacked layout and computes the same.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core.scope import LazyRng

STACKED = "blocks"
"""Name of the stacked blocks of a stage."""
MIN_SCAN_BLOCKS = 4
"""Blocks in the smallest stage that is stacked."""


def stack_blocks(tree: Any) -> Any:
    """Converts a tree from the plain to the stacked layout, bit-identical.

    Args:
      tree: variables, gradients, averages, an optimiser's state: any tree with stages, of arrays or
        of `jax.ShapeDtypeStruct`. NumPy arrays stay NumPy arrays. A stacked tree does not change.

    Examples:
      >>> stage = {f"block{i}": {"bias": np.full(8, i)} for i in (1, 2, 3, 4)}
      >>> stack_blocks({"stage1": stage})["stage1"]["blocks"]["bias"].shape
      (3, 8)
    """
    return _map_stages(_stack_stage, f"block{MIN_SCAN_BLOCKS}", tree)


def unstack_blocks(tree: Any) -> Any:
    """The inverse of `stack_blocks`; a plain tree does not change."""
    return _map_stages(_unstack_stage, STACKED, tree)


def _map_stages(change: Callable[[Any], Any], mark: str, tree: Any) -> Any:
    def is_stage(node: Any) -> bool:
        return isinstance(node, Mapping) and mark in node

    return jax.tree.map(lambda x: change(x) if is_stage(x) else x, tree, is_leaf=is_stage)


def _stack_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    identical = [stage[f"block{i}"] for i in range(2, len(stage) + 1)]
    return {"block1": stage["block1"], STACKED: jax.tree.map(_stack, *identical)}


def _unstack_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    leaves, treedef = jax.tree.flatten(stage[STACKED])
    each = zip(*map(_unstack, leaves), strict=True)
    identical = {
        f"block{i}": jax.tree.unflatten(treedef, part) for i, part in enumerate(each, start=2)
    }
    return {"block1": stage["block1"], **identical}


def _stack(*leaves: Any) -> Any:
    first = leaves[0]
    if isinstance(first, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(leaves), *first.shape), first.dtype)
    return (np if isinstance(first, np.ndarray) else jnp).stack(leaves)


def _unstack(leaf: Any) -> list[Any]:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)] * leaf.shape[0]
    return list(leaf)


def init_stacked(
    block: nn.Module, rng: LazyRng, names: Sequence[str], *args: Any, **kwargs: Any
) -> Any:
    """Initialises identical blocks; returns their variables, stacked.

    Each block gets the values that it has in the plain layout. The block is traced once: only the
    keys of the random kernels differ, and they follow from the names.

    Args:
      block: an unbound module, called with the other arguments.
      rng: the `params` stream of the stage.
      names: the blocks' names in the plain layout.
    """
    initializers: dict[tuple[str, ...], Any] = {}

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        initializers[context.module.path] = getattr(context.module, "kernel_init", None)
        return call(*args, **kwargs)

    def stack(path: Any, leaf: jax.Array) -> jax.Array:
        _, *modules, last = (key.key for key in path)
        if last != "kernel":  # only kernels are random
            return jnp.broadcast_to(leaf, (len(names), *leaf.shape))
        data = [_fold_in_data(*rng.suffix, name, *modules, 1) for name in names]
        keys = jax.vmap(lambda x: jax.random.fold_in(rng.rng, x))(jnp.asarray(data, jnp.uint32))
        return jax.vmap(lambda key: initializers[tuple(modules)](key, leaf.shape, leaf.dtype))(keys)

    with nn.intercept_methods(record):
        variables = block.init(rng.as_jax_rng(), *args, **kwargs)
    return jax.tree.map_with_path(stack, variables)


def _fold_in_data(*suffix: str | int) -> int:
    """The number that Flax folds into the root key for the first key of the module at this path."""
    text = hashlib.sha1()
    for part in suffix:
        if flax.config.flax_fix_rng_separator:
            text.update(b"\00")
        text.update(part.encode() if isinstance(part, str) else bytes([part]))
    return int.from_bytes(text.digest()[:4], "big")
