"""Blocks of a stage that are all alike, as one: their variables stacked along a first axis.

In the plain layout a stage holds block1, block2, ... blockN; in the stacked one block1, which may
stride and project, and `blocks`, whose leaves [N - 1, ...] are those of block2 to blockN. Stages of
less than four blocks stay plain: XLA compiles so few about as fast. A network with `scan` has the
stacked layout, and is otherwise the same.
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

NAME = "blocks"
MIN_SCAN_BLOCKS = 4
"""Blocks of a stage that is stacked."""


def stack_blocks(tree: Any) -> Any:
    """A tree in the plain layout -> in the stacked one, bit for bit.

    Args:
      tree: variables, gradients, averages, an optimiser's state: whatever holds stages, of arrays
        (NumPy's stay so) or of `jax.ShapeDtypeStruct`. What is stacked already stays as it is.

    Examples:
      >>> stage = {f"block{i}": {"bias": np.full(8, i)} for i in (1, 2, 3, 4)}
      >>> stack_blocks({"stage1": stage})["stage1"]["blocks"]["bias"].shape
      (3, 8)
    """
    return _map_stages(_stack_stage, f"block{MIN_SCAN_BLOCKS}", tree)


def unstack_blocks(tree: Any) -> Any:
    """The inverse of `stack_blocks`; a plain tree stays as it is."""
    return _map_stages(_unstack_stage, NAME, tree)


def _map_stages(change: Callable[[Any], Any], mark: str, tree: Any) -> Any:
    def is_stage(node: Any) -> bool:
        return isinstance(node, Mapping) and mark in node

    return jax.tree.map(lambda x: change(x) if is_stage(x) else x, tree, is_leaf=is_stage)


def _stack_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    alike = [stage[f"block{i}"] for i in range(2, len(stage) + 1)]
    return {"block1": stage["block1"], NAME: jax.tree.map(_stack, *alike)}


def _unstack_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    leaves, treedef = jax.tree.flatten(stage[NAME])
    each = zip(*map(_unstack, leaves), strict=True)
    alike = {f"block{i}": jax.tree.unflatten(treedef, part) for i, part in enumerate(each, start=2)}
    return {"block1": stage["block1"], **alike}


def _stack(*leaves: Any) -> Any:
    first = leaves[0]
    if isinstance(first, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(leaves), *first.shape), first.dtype)
    return (np if isinstance(first, np.ndarray) else jnp).stack(leaves)


def _unstack(leaf: Any) -> list[Any]:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)] * leaf.shape[0]
    return list(leaf)


def initial(block: nn.Module, rng: LazyRng, names: Sequence[str], *args: Any, **kwargs: Any) -> Any:
    """The first variables of equal blocks, stacked: each has those that it would have by itself.

    Traced once, however many they are: only the keys of the draws differ, which follow from names.

    Args:
      block: not bound; called with the other arguments.
      rng: the `params` stream of the module that would hold the blocks.
      names: that they would have there.
    """
    draws: dict[tuple[str, ...], Any] = {}

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        draws[context.module.path] = getattr(context.module, "kernel_init", None)
        return call(*args, **kwargs)

    def stack(path: Any, leaf: jax.Array) -> jax.Array:
        _, *modules, last = (key.key for key in path)
        if last != "kernel":  # nothing else is random
            return jnp.broadcast_to(leaf, (len(names), *leaf.shape))
        words = [_word(*rng.suffix, name, *modules, 1) for name in names]
        keys = jax.vmap(lambda word: jax.random.fold_in(rng.rng, word))(
            jnp.asarray(words, jnp.uint32)
        )
        return jax.vmap(lambda key: draws[tuple(modules)](key, leaf.shape, leaf.dtype))(keys)

    with nn.intercept_methods(note):
        variables = block.init(rng.as_jax_rng(), *args, **kwargs)
    return jax.tree.map_with_path(stack, variables)


def _word(*suffix: str | int) -> int:
    """What Flax folds into the root's key for the first draw of the module at this path."""
    text = hashlib.sha1()
    for part in suffix:
        if flax.config.flax_fix_rng_separator:
            text.update(b"\00")
        text.update(part.encode() if isinstance(part, str) else bytes([part]))
    return int.from_bytes(text.digest()[:4], "big")
