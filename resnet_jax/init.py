"""Initialisers of kernels.

NumPy's Philox generator samples the values on the host, seeded by the JAX key. One key gives the
same weights on every platform, with and without `jit`, and nothing has to be compiled. XLA needs
about half a second on a CPU to compile a normal sample of each distinct shape; that was most of the
time before the first step.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.spec import KernelInit

Initializer = Callable[..., jax.Array]
Fan = Literal["in", "out"]
Divisor = Callable[[int, int], float]


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


def kaiming_normal(fan: Fan = "out", slope: float = 0.0) -> Initializer:
    """Normal with variance 2 / ((1 + slope^2) fan) (He 2015, arXiv:1502.01852, equation 15).

    Args:
      fan: "out" as in torchvision, or "in".
      slope: negative slope of the activation; 0: ReLU.
    """
    return _normal(_kaiming(fan, slope))


def kaiming_uniform(fan: Fan = "out", slope: float = 0.0) -> Initializer:
    """Uniform with the variance of `kaiming_normal`."""
    return _uniform(_kaiming(fan, slope))


def _kaiming(fan: Fan, slope: float) -> Divisor:
    return lambda fan_in, fan_out: (1 + slope**2) * (fan_out if fan == "out" else fan_in)


def xavier_normal() -> Initializer:
    """Normal with variance 2 / (fan_in + fan_out) (Glorot 2010, equation 12)."""
    return _normal(lambda fan_in, fan_out: fan_in + fan_out)


def xavier_uniform() -> Initializer:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot 2010, equation 16)."""
    return _uniform(lambda fan_in, fan_out: fan_in + fan_out)


def _normal(divisor: Divisor) -> Initializer:
    """Normal with variance 2 / divisor(fan_in, fan_out)."""
    return _host_draw(
        lambda rng, shape: rng.normal(0, math.sqrt(2 / divisor(*_fans(shape))), shape)
    )


def _uniform(divisor: Divisor) -> Initializer:
    """Uniform with the same variance."""

    def sample(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        bound = math.sqrt(6 / divisor(*_fans(shape)))
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


def normal(stddev: float) -> Initializer:
    """Normal with a fixed standard deviation."""
    return _host_draw(lambda rng, shape: rng.normal(0, stddev, shape))


def small_normal(stddev: float = 0.01) -> Initializer:
    """`normal` with 0.01 (Goyal 2017, section 5.1)."""
    return normal(stddev)


def zeros() -> Initializer:
    """All zeros."""
    return jax.nn.initializers.zeros


def constant(value: float) -> Initializer:
    """All one value."""
    return jax.nn.initializers.constant(value) if value else zeros()


def kernel_initializer(kind: KernelInit, fan: Fan, slope: float, stddev: float) -> Initializer:
    """The initialiser of `ResNetSpec.kernel_init`, with `kernel_fan`, `kernel_slope` and
    `kernel_std`.
    """
    makers: dict[KernelInit, Callable[[], Initializer]] = {
        "kaiming_normal": lambda: kaiming_normal(fan, slope),
        "kaiming_uniform": lambda: kaiming_uniform(fan, slope),
        "xavier_normal": xavier_normal,
        "xavier_uniform": xavier_uniform,
        "normal": lambda: normal(stddev),
        "small_normal": small_normal,
        "zeros": zeros,
    }
    return makers[kind]()
