"""Precise BatchNorm: statistics re-estimated over many training batches.

The running averages weigh the last batches most, and were taken while the weights moved. He 2016a's
released models have statistics that were computed after training over many training images
(github.com/KaimingHe/deep-residual-networks, README).
"""

from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import BatchNorm
from resnet_jax.conv import convolve
from resnet_jax.norm import at_least_float32

Tree = Any


def batch_statistics(
    apply: Callable[..., tuple[Any, Any]], variables: Tree, *args: Any, **options: Any
) -> Tree:
    """Mean and biased variance of the inputs of each BatchNorm in one batch. It can be jitted.

    Each layer normalises as in training, so that a layer sees what it saw there. With ghost
    batches (`group_size`), the statistics are still those of the whole batch.

    Args:
      apply: `model.apply` of a Flax module with `resnet_jax.BatchNorm`.
      variables: with `batch_stats`.
      args, options: further arguments of `apply`, such as the images, `train=True` and `rngs`.

    Returns:
      A tree like `variables["batch_stats"]`.
    """

    def record(
        call: Callable[..., Any], given: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        found = call(*given, **kwargs)
        module = context.module
        if isinstance(module, BatchNorm) and context.method_name == "__call__":
            x, kernel = given[0], kwargs.get("kernel")
            if kernel is not None:  # a 1x1 convolution that is fused with the norm
                x = convolve(x, kernel.astype(x.dtype)[None, None])
            mean, var = _moments(x)
            module.put_variable("batch_stats", "mean", mean)
            module.put_variable("batch_stats", "var", var)
        return found

    with nn.intercept_methods(record):
        _, updates = apply(variables, *args, mutable=["batch_stats"], **options)
    return updates["batch_stats"]


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of [..., C] over all axes but the last, in two passes."""
    wide = x.astype(at_least_float32(x.dtype))
    axes = tuple(range(x.ndim - 1))
    mean = wide.mean(axes)
    return mean.astype(jnp.float32), jnp.square(wide - mean).mean(axes).astype(jnp.float32)


def combined(batches: Iterable[Tree]) -> Tree:
    """Mean and variance over several batches of the same size, from those of each batch.

    The variance is the mean of the variances within the batches, plus the variance of their means:
    that of all values together, with the divisor n. Sums are in float64 (Welford's).

    Args:
      batches: trees with `mean` and `var`, from `batch_statistics`.

    Returns:
      A tree of the same form, float32 NumPy arrays.

    Raises:
      ValueError: there is no batch.

    >>> one, two = ({"mean": np.array([m]), "var": np.array([v])} for m, v in ((1, 0.5), (3, 1.5)))
    >>> combined([one, two])
    {'mean': array([2.], dtype=float32), 'var': array([2.], dtype=float32)}
    """
    mean: Tree = None
    within: Tree = None
    between: Tree = None
    count = 0
    for batch in batches:
        now, var = (_leaves(batch, name) for name in ("mean", "var"))
        count += 1
        if mean is None:
            mean, within, between = now, var, [np.zeros_like(x) for x in now]
            tree = batch
            continue
        before = [x - m for x, m in zip(now, mean, strict=True)]
        mean = [m + d / count for m, d in zip(mean, before, strict=True)]
        after = [x - m for x, m in zip(now, mean, strict=True)]
        between = [b + d * e for b, d, e in zip(between, before, after, strict=True)]
        within = [w + (v - w) / count for w, v in zip(within, var, strict=True)]
    if not count:
        raise ValueError("no batch: the statistics need at least one")
    var = [w + b / count for w, b in zip(within, between, strict=True)]
    found = {"mean": iter(mean), "var": iter(var)}
    return jax.tree.map_with_path(
        lambda path, _: next(found[path[-1].key]).astype(np.float32), tree
    )


def _leaves(tree: Tree, name: str) -> list[np.ndarray]:
    """The leaves of this name, in float64, in the order of the tree."""
    pairs = jax.tree.leaves_with_path(tree)
    return [np.asarray(x, np.float64) for path, x in pairs if path[-1].key == name]
