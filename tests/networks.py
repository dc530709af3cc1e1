"""Small networks with numbers of their own, for the tests of what networks compute."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Half of the time here would be XLA optimising programs that run once.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def images(size: int = 12, batch: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def shapes(model: nn.Module, size: int = 12) -> dict:
    x = jax.ShapeDtypeStruct((4, size, size, 3), jnp.float32)
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)


def at_random(tree: dict, seed: int = 1) -> dict:
    """Every leaf away from the value it starts with, so that each of them counts."""
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        draw = rng.normal(size=x.shape)
        value = {
            "kernel": lambda: draw / math.sqrt(math.prod(x.shape[:-1])),
            "scale": lambda: 1 + 0.3 * draw,
            "bias": lambda: 0.3 * draw,
            "slope": lambda: 0.3 * draw,
            "mean": lambda: 0.3 * draw,
            "var": lambda: np.exp(0.3 * draw),
        }[path[-1].key]()
        return value.astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def variables_at_random(model: nn.Module, seed: int = 1) -> dict:
    return at_random(shapes(model), seed)


def initialised(model: nn.Module, seed: int = 0) -> dict:
    init = jit(functools.partial(model.init, train=False))
    return init(jax.random.key(seed), jnp.zeros((1, 12, 12, 3)))


def run(model: nn.Module, variables: dict, x: np.ndarray, train: bool, **rngs: jax.Array):
    def apply(variables, x):
        return model.apply(variables, x, train=train, mutable=["batch_stats"], rngs=rngs)

    pyramid, updates = jit(apply)(variables, x)
    return jax.tree.map(np.asarray, (pyramid, updates.get("batch_stats", {})))


def paths(tree: dict) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}
