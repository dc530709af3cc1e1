"""LeNet-5, a baseline for residual networks."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.init import xavier_uniform
from resnet_jax.layers import activate
from resnet_jax.spec import LeNetSpec


class LeNet(nn.Module):
    """The layers C1 to F6 of LeNet-5 (LeCun 1998, "Gradient-Based Learning", section II.B).

    In the form that is usual today: C3 is connected to all maps of S2, subsampling has no weights,
    and the classifier is a dense layer. An image of 32x32 gives a last map of one pixel. Larger
    images give larger maps, as in the paper's section VII, on a line of digits.

    Raises:
      ValueError: images smaller than 32x32.
    """

    spec: LeNetSpec
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """[B, H, W, C] -> {"c1": [B, H/2 - 2, ., 6], "c2": [B, ., ., 16], "c3": [B, ., ., 84]}."""
        if min(images.shape[1:3]) < 32:
            raise ValueError(f"LeNet-5 needs images of 32x32 or more, not {images.shape[1:3]}")
        act = partial(activate, self.spec.activation, self.spec.activation_slope)

        def conv(features: int, kernel: int, name: str) -> nn.Conv:
            return nn.Conv(
                features,
                (kernel, kernel),
                padding="VALID",
                kernel_init=xavier_uniform(),
                dtype=self.dtype,
                name=name,
            )

        c1 = nn.avg_pool(act(conv(6, 5, "conv1")(images), "act1"), (2, 2), (2, 2))
        c2 = nn.avg_pool(act(conv(16, 5, "conv2")(c1), "act2"), (2, 2), (2, 2))
        c5 = act(conv(120, 5, "conv3")(c2), "act3")
        return {"c1": c1, "c2": c2, "c3": act(conv(84, 1, "conv4")(c5), "act4")}
