"""Initialisers of kernels.

NumPy's Philox generator samples the values on the host, seeded by the JAX key. One key gives the
same weights on every platform, with and without `jit`, and nothing has to be compiled. XLA needs
about half a second on a CPU to compile a normal sample of each distinct shape; that was most of the
time before the first step.
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
    """(fan_in, fan_out) of a kernel [..., in, out], including its receptive field."""
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


def kaiming_normal() -> Initializer:
    """Normal with variance 2 / fan_out (He 2015, arXiv:1502.01852, 2.2), as in torchvision."""
    return _host_draw(lambda rng, shape: rng.normal(0, math.sqrt(2 / _fans(shape)[1]), shape))


def xavier_uniform() -> Initializer:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot 2010, equation 16)."""

    def sample(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        bound = math.sqrt(6 / sum(_fans(shape)))
        return rng.uniform(-bound, bound, shape)

    return _host_draw(sample)


def dense_uniform() -> Initializer:
    """Uniform in +-1/sqrt(fan_in), torch's default for a dense layer.

    With the 2,048 features of ResNet-50, the standard deviation is 0.01, as in Goyal 2017. With the
    64 features of a CIFAR network it is larger; there, a fixed 0.01 would slow down training.
    """

    def sample(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        bound = 1 / math.sqrt(_fans(shape)[0])
        return rng.uniform(-bound, bound, shape)

    return _host_draw(sample)


def small_normal(stddev: float = 0.01) -> Initializer:
    """Normal with a fixed standard deviation (Goyal 2017, section 5.1)."""
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
