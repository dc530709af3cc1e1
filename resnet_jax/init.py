"""Initialisers, by the field's names.

The numbers are drawn on the host by NumPy's Philox, keyed by the JAX key: one key gives the same
weights on every platform, whether or not `init` is jitted, and nothing has to be compiled for it.
(XLA takes about half a second to compile a normal draw for each distinct shape on a CPU, which was
most of the wait for a first step.)
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[..., jax.Array]


def _host_draw(sample: Callable[[np.random.Generator, Sequence[int]], np.ndarray]) -> Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        def draw(words: jax.Array) -> np.ndarray:
            seed = np.random.SeedSequence(np.asarray(words).ravel().tolist())
            rng = np.random.Generator(np.random.Philox(seed))
            return sample(rng, tuple(shape)).astype(np.float32)

        out = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
        words = jax.random.key_data(key)
        return jax.pure_callback(draw, out, words, vmap_method="sequential").astype(dtype)

    return init


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Inputs and outputs of a kernel [..., in, out], counting its receptive field."""
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


def kaiming_normal() -> Initializer:
    """Normal of variance 2 / fan_out (He 2015, arXiv:1502.01852, 2.2), as in torchvision."""
    return _host_draw(lambda rng, shape: rng.normal(0, math.sqrt(2 / _fans(shape)[1]), shape))


def xavier_uniform() -> Initializer:
    """Uniform of variance 2 / (fan_in + fan_out) (Glorot 2010, equation 16)."""

    def sample(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        bound = math.sqrt(6 / sum(_fans(shape)))
        return rng.uniform(-bound, bound, shape)

    return _host_draw(sample)


def dense_uniform() -> Initializer:
    """Uniform in +-1/sqrt(fan_in), torch's default for a dense layer.

    For ResNet-50's 2,048 features its deviation is the 0.01 of Goyal 2017; unlike a fixed 0.01, it
    does not hold back a CIFAR network with 64.
    """

    def sample(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        bound = 1 / math.sqrt(_fans(shape)[0])
        return rng.uniform(-bound, bound, shape)

    return _host_draw(sample)


def small_normal(stddev: float = 0.01) -> Initializer:
    """Normal of a fixed standard deviation (Goyal 2017, section 5.1)."""
    return _host_draw(lambda rng, shape: rng.normal(0, stddev, shape))


def zeros() -> Initializer:
    """All zeros."""
    return jax.nn.initializers.zeros


INITIALIZERS: dict[str, Callable[[], Initializer]] = {
    "kaiming_normal": kaiming_normal,
    "xavier_uniform": xavier_uniform,
    "small_normal": small_normal,
    "zeros": zeros,
}
