"""Channel attention, regularisation layers, fractional pooling, the classifier's dense layer."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from resnet_jax.init import Initializer, constant, dense_uniform, kaiming_normal
from resnet_jax.norm import at_least_float32
from resnet_jax.remat import save_for_backward
from resnet_jax.spec import Activation

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "selu": nn.selu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "silu": nn.silu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "hard_swish": nn.hard_swish,
}


class PReLU(nn.Module):
    """max(x, 0) + a min(x, 0), with a learned slope a for each channel (He 2015, arXiv:1502.01852,
    2.1).

    Parameters: `slope` float32 [C].

    Args:
      init_slope: the first value of all slopes.
    """

    init_slope: float = 0.25

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        slope = self.param("slope", constant(self.init_slope), x.shape[-1:], jnp.float32)
        return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


def activate(kind: Activation, slope: float | None, x: jax.Array, name: str) -> jax.Array:
    """Applies an activation, inside the `__call__` of a module.

    Args:
      kind: `ResNetSpec.activation`.
      slope: `ResNetSpec.activation_slope`.
      x: [..., C].
      name: of the module with the slopes, if they are learned.
    """
    if kind == "prelu":
        return PReLU(name=name)(x) if slope is None else PReLU(slope, name=name)(x)
    if kind == "leaky_relu" and slope is not None:
        return nn.leaky_relu(x, slope)
    return ACTIVATIONS[kind](x)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: scales each channel by a learned gate (Hu 2018, arXiv:1709.01507).

    The gates are computed from the means of all channels. The bottleneck has `ratio * C` channels,
    rounded to a multiple of 8 as in timm.

    Parameters: `fc1/{kernel, bias}`, `fc2/{kernel, bias}`.
    """

    ratio: float = 1 / 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        channels = x.shape[-1]
        squeezed = max(8, int(channels * self.ratio + 4) // 8 * 8)
        gate = save_for_backward(x.astype(at_least_float32(x.dtype)).mean((1, 2), keepdims=True))
        gate = nn.relu(nn.Dense(squeezed, kernel_init=kaiming_normal(), name="fc1")(gate))
        gate = nn.Dense(channels, kernel_init=kaiming_normal(), name="fc2")(gate)
        return x * nn.sigmoid(gate).astype(x.dtype)


class EfficientChannelAttention(nn.Module):
    """Gates each channel by a 1-D convolution over channels (Wang 2020, arXiv:1910.03151, 3.2).

    Parameters: `kernel` float32 [k, 1, 1], with k = |(log2(C) + 1) / 2| made odd, at least 3.
    """

    kernel_init: Initializer = dense_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        size = int((math.log2(x.shape[-1]) + 1) / 2)
        size = max(size + 1 - size % 2, 3)
        kernel = self.param("kernel", self.kernel_init, (size, 1, 1), jnp.float32)
        means = save_for_backward(x.astype(at_least_float32(x.dtype)).mean((1, 2)))[..., None]
        pad = (size // 2, size // 2)
        numbers = ("NWC", "WIO", "NWC")
        gate = lax.conv_general_dilated(
            means, kernel.astype(means.dtype), (1,), (pad,), dimension_numbers=numbers
        )
        return x * nn.sigmoid(gate[:, None, None, :, 0]).astype(x.dtype)


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for randomly chosen examples of a batch.

    A kept branch is divided by its survival probability, so that evaluation needs no rescaling
    (Huang 2016, arXiv:1603.09382, section 3, in inverted form). Uses the `dropout` random stream.

    Args:
      rate: probability of dropping the branch of an example.
    """

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, ...] -> [B, ...]."""
        if not train or (not isinstance(self.rate, jax.Array) and self.rate == 0):
            return x
        keep_rate = 1 - self.rate
        shape = (x.shape[0], *(1,) * (x.ndim - 1))
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep_rate, shape)
        # Divided in float32: rounded to bfloat16, the probability would be up to 0.2 % wrong.
        wide = x.astype(at_least_float32(x.dtype))
        return jnp.where(kept, wide / keep_rate, 0).astype(x.dtype)


class DropBlock(nn.Module):
    """DropBlock: zeroes squares of a map, in all channels, and scales up the remaining values.

    Ghiasi 2018, arXiv:1810.12890, algorithm 1. Centres are sampled where a whole square fits, with
    the probability that drops a fraction `rate` of the map. Uses the `dropout` random stream.

    The scale is count(mask) / count_ones(mask) over the whole batch (lines 6 and 7; under `jit`
    over a mesh, the global batch), so that the mean of the mask is 1. A scale for each example
    could not compensate for an example that is dropped completely. If the whole batch is dropped,
    the result is 0.

    Args:
      rate: fraction of the map that is dropped.
      size: side of the squares in pixels; at most the map's side.
    """

    rate: float
    size: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        if not train or self.rate == 0:
            return x
        batch, *sides, _ = x.shape
        square = [min(self.size, side) for side in sides]
        inner = [side - s + 1 for side, s in zip(sides, square, strict=True)]
        chance = min(1.0, self.rate * math.prod(sides) / math.prod(square) / math.prod(inner))
        shape = (batch, *inner, 1)
        hit = jax.random.bernoulli(self.make_rng("dropout"), chance, shape).astype(jnp.float32)
        pad = [(s - 1, s - 1) for s in square]
        kept = 1 - nn.max_pool(hit, tuple(square), padding=pad)
        scale = kept.size / jnp.maximum(kept.sum(), 1)
        return (x * (kept * scale)).astype(x.dtype)


class FractionalMaxPool(nn.Module):
    """3x3 max pooling at pseudorandom positions, sqrt(2) apart on average (Graham 2014, section 2).

    The windows overlap (arXiv:1412.6071). In training, each example has random offsets, from the
    `dropout` random stream; evaluation uses the middle one. The positions are those of torch's
    FractionalMaxPool2d.

    Raises:
      ValueError: the map has less than 4x4 pixels.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, floor(H / sqrt 2), floor(W / sqrt 2), C]."""
        if min(x.shape[1:3]) < 4:
            raise ValueError(
                f"fractional max pooling needs maps of 4x4 or more, not {x.shape[1:3]}"
            )
        shape = (x.shape[0], 2)
        middle = jnp.full(shape, 0.5)
        offsets = jax.random.uniform(self.make_rng("dropout"), shape) if train else middle
        return jax.vmap(_fractional_max)(x, offsets)


def _fractional_max(x: jax.Array, offsets: jax.Array) -> jax.Array:
    """[H, W, C] and the two offsets in [0, 1) -> [H', W', C]."""
    for axis in (0, 1):
        side = x.shape[axis]
        out = int(side / math.sqrt(2))
        step = (side - 3) / (out - 1)
        start = jnp.floor((jnp.arange(out) + offsets[axis]) * step) - jnp.floor(
            offsets[axis] * step
        )
        start = start.astype(jnp.int32).at[-1].set(side - 3)
        windows = [jnp.take(x, start + i, axis) for i in range(3)]
        x = jnp.maximum(jnp.maximum(windows[0], windows[1]), windows[2])
    return x


class Dense(nn.Module):
    """The classifier's dense layer, in float32.

    `drop_connect` is the probability of dropping each weight in a training step; the others are
    scaled up (Wan 2013, "Regularization of Neural Networks using DropConnect"). All examples of a
    batch share one mask. The paper has a mask for each example (section 3), which takes B times the
    memory of the kernel: 2 GB for 2048 features, 1000 classes and 256 examples. The mean and
    variance of each output are the same, but the noise of examples in a batch is correlated.

    Parameters: `kernel` float32 [features_in, features], `bias`.
    """

    features: int
    drop_connect: float = 0.0
    kernel_init: Initializer = dense_uniform()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, features_in] -> [B, features]."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        if train and self.drop_connect:
            keep_rate = 1 - self.drop_connect
            kept = jax.random.bernoulli(self.make_rng("dropout"), keep_rate, shape)
            kernel = jnp.where(kept, kernel / keep_rate, 0)
        return x @ kernel + bias


def pad_shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
    """Shortcut A (He 2016a, 3.3): [B, H, W, C] -> [B, ceil(H / stride), ., features].

    Takes every `stride`-th pixel and adds channels of zeros on both sides.
    """
    extra = features - x.shape[-1]
    return jnp.pad(
        x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2))
    )
