"""The residual block, built from a `BlockPlan`."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from resnet_jax.conv import Conv, anti_alias, avg_pool_down, avg_pool_same
from resnet_jax.layers import (
    DropBlock,
    DropPath,
    EfficientChannelAttention,
    SqueezeExcite,
    activate,
    pad_shortcut,
)
from resnet_jax.norm import BatchNorm, GroupNorm, at_least_float32
from resnet_jax.plans import BlockPlan, ConvPlan
from resnet_jax.spec import ResNetSpec

Layer = Any  # a module class with some arguments bound


class Block(nn.Module):
    """One residual block of any kind.

    v1: conv-norm-act ... conv-norm, add, act (He 2016a, figure 2).
    v2: norm-act-conv ..., add (He 2016b, figure 1b). A projection follows the first norm-act, which
    both paths then share.

    Args:
      spec: of the network; decides the order of the layers.
      plan: the block's convolutions and shortcut.
      conv: constructor of convolutions.
      norm: constructor of norms.
      final_act: whether v1's last activation is part of the block.
    """

    spec: ResNetSpec
    plan: BlockPlan
    conv: Layer
    norm: Layer
    final_act: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, drop_path: float | jax.Array = 0.0, *, train: bool
    ) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, plan.features].

        `drop_path` is the probability that an example skips the branch in training.
        """
        spec, convs = self.spec, self.plan.convs
        act, preact = partial(activate, spec.activation, spec.activation_slope), spec.preact
        y = shortcut = x
        if preact:
            y = act(self.norm(name="norm1")(y, train=train), "act1")
            shortcut = y if self.plan.shortcut == "conv" else x
        # A plain network has no shortcut: a branch that starts at zero would pass no signal.
        zero, zero_conv = (
            starts and self.plan.shortcut != "none" for starts in (spec.zero_gamma, spec.zero_conv)
        )
        for i, plan in enumerate(convs, start=1):
            last = i == len(convs)
            conv = make_conv(
                self.conv, plan, f"conv{i}", zero=last and (zero_conv or (zero and preact))
            )
            if last:
                break
            y = self.norm(name=f"norm{i + preact}")(conv(y), train=train)
            if plan.kernel == 3:
                rate, size = self.plan.drop_block, spec.drop_block_size
                y = DropBlock(rate, size, name="drop_block")(y, train=train)
            y = act(y, f"act{i + preact}")
            if plan.blur:
                y = anti_alias(y, spec.anti_alias, plan.blur)
            if i == len(convs) - 1 and spec.block_dropout:
                dropout = nn.Dropout(spec.block_dropout, deterministic=not train, name="dropout")
                # Scaled in float32: rounded to bfloat16, the scale would be up to 0.2 % wrong.
                y = dropout(y.astype(at_least_float32(y.dtype))).astype(y.dtype)
        if preact:
            y = conv(y)
        else:
            scale_init = nn.initializers.zeros if zero else nn.initializers.ones
            norm = self.norm(scale_init=scale_init, name=f"norm{len(convs)}")
            y = _conv_norm(conv, norm, y, train)
        if spec.attention == "se":
            y = SqueezeExcite(spec.se_ratio, name="se")(y)
        elif spec.attention == "eca":
            y = EfficientChannelAttention(name="eca")(y)
        if self.plan.shortcut != "none":
            y = DropPath(drop_path, name="drop_path")(y, train=train)
            shortcut = self._shortcut(shortcut, train)
            if y.shape != shortcut.shape:
                raise ValueError(
                    f"anti_alias 'avg': drops the last pixel of a {x.shape[1]}x{x.shape[2]} map, "
                    "but the shortcut keeps it; choose an image size that halves evenly"
                )
            y = y + shortcut
        return act(y, f"act{len(convs)}") if self.final_act and not preact else y

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        plan = self.plan
        if plan.shortcut == "pad":
            return pad_shortcut(x, plan.features, plan.stride)
        if plan.shortcut == "identity":
            return x
        if self.spec.avg_down and plan.stride == 2:
            x = avg_pool_down(x)
        elif self.spec.avg_down and plan.dilation > 1:
            x = avg_pool_same(x)
        conv = make_conv(self.conv, plan.projection, "shortcut_conv")
        if self.spec.preact:
            return conv(x)
        return _conv_norm(conv, self.norm(name="shortcut_norm"), x, train)


def _conv_norm(conv: Conv, norm: BatchNorm | GroupNorm, x: jax.Array, train: bool) -> jax.Array:
    """norm(conv(x)); in training, one fused layer if a 1x1 convolution adds channels."""
    widens = conv.kernel_size == conv.groups == 1 and x.shape[-1] < conv.features
    if not (train and widens and isinstance(norm, BatchNorm) and norm.fuse):
        return norm(conv(x), train=train)
    pixels = -(-x.shape[1] // conv.stride) * -(-x.shape[2] // conv.stride)
    if (norm.group_size or len(x)) * pixels < 8 * x.shape[-1]:
        # The product [C_in, C_in] by [C_in, C] does not shrink with the map. Here it would cost
        # more than an eighth of the convolution.
        return norm(conv(x), train=train)
    kernel = conv.kernel(x.shape[-1])[0, 0]
    x = x[:, :: conv.stride, :: conv.stride].astype(conv.dtype)
    return norm(x, train=train, kernel=kernel)


def make_conv(conv: Layer, plan: ConvPlan, name: str, *, zero: bool = False) -> Conv:
    """The convolution of a plan; `zero`: its kernel starts at zero."""
    options = {"kernel_init": nn.initializers.zeros} if zero else {}
    return conv(
        plan.features,
        plan.kernel,
        plan.stride,
        plan.groups,
        dilation=plan.dilation,
        name=name,
        **options,
    )
