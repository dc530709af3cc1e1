"""Small layers without parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class DropPath(nn.Module):
    """Stochastic depth: zeroes a residual branch for a random share of examples.

    A kept branch is divided by its chance to survive, so that evaluation needs no rescaling
    (Huang 2016, arXiv:1603.09382, section 3, in its inverted form). Draws from the `dropout`
    stream.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, ...] -> [B, ...]."""
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        shape = (x.shape[0], *(1,) * (x.ndim - 1))
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(kept, x / keep, 0).astype(x.dtype)


def pad_shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
    """Shortcut A (He 2016a, 3.3): every `stride`-th pixel, zero channels added on both sides."""
    extra = features - x.shape[-1]
    return jnp.pad(
        x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2))
    )
