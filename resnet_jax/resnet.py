"""The residual block, stage and backbone, built from a `ResNetSpec`."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.conv import Conv, avg_pool_down, max_pool
from resnet_jax.init import INITIALIZERS
from resnet_jax.layers import DropPath, pad_shortcut
from resnet_jax.norm import BatchNorm
from resnet_jax.spec import BlockPlan, ConvPlan, ResNetSpec

Layer = Any  # a module's constructor with its options filled in


class Block(nn.Module):
    """One residual block of any kind; what it is made of is `plan`, the order of layers `spec`.

    v1: conv-norm-relu ... conv-norm, add, relu (He 2016a, figure 2).
    v2: norm-relu-conv ..., add (He 2016b, figure 1b); a projection starts behind the first
    norm-relu, which both paths then share.
    """

    spec: ResNetSpec
    plan: BlockPlan
    drop_path: float
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, plan.features]."""
        preact, shortcut = self.spec.preact, x
        y = x
        for i, plan in enumerate(self.plan.convs, start=1):
            if preact:
                y = nn.relu(self.norm(name=f"norm{i}")(y, train=train))
                if i == 1 and self.plan.shortcut == "conv":
                    shortcut = y
            last = i == len(self.plan.convs)
            # A plain network has nothing beside the branch: at zero it would pass no signal.
            zero = last and self.spec.zero_gamma and self.plan.shortcut != "none"
            y = self._conv(plan, f"conv{i}", zero=zero and preact)(y)
            if not preact:
                scale_init = nn.initializers.zeros if zero else nn.initializers.ones
                y = self.norm(scale_init=scale_init, name=f"norm{i}")(y, train=train)
                y = y if last else nn.relu(y)
        if self.plan.shortcut != "none":
            y = DropPath(self.drop_path, name="drop_path")(y, train=train)
            y = y + self._shortcut(shortcut, train)
        return y if preact else nn.relu(y)

    def _conv(self, plan: ConvPlan, name: str, zero: bool = False) -> nn.Module:
        options = {"kernel_init": nn.initializers.zeros} if zero else {}
        return self.conv(plan.features, plan.kernel, plan.stride, plan.groups, name=name, **options)

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        plan = self.plan
        if plan.shortcut == "pad":
            return pad_shortcut(x, plan.features, plan.stride)
        if plan.shortcut == "identity":
            return x
        stride = plan.stride
        if self.spec.avg_down and stride == 2:
            x, stride = avg_pool_down(x), 1
        x = self._conv(ConvPlan(1, plan.features, stride), "shortcut_conv")(x)
        return x if self.spec.preact else self.norm(name="shortcut_norm")(x, train=train)


class Stage(nn.Module):
    """Consecutive blocks of one width."""

    spec: ResNetSpec
    plans: tuple[BlockPlan, ...]
    drop_paths: tuple[float, ...]
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        for i, (plan, rate) in enumerate(zip(self.plans, self.drop_paths, strict=True), start=1):
            block = Block(self.spec, plan, rate, self.conv, self.norm, name=f"block{i}")
            x = block(x, train=train)
        return x


class ResNet(nn.Module):
    """The backbone.

    `norm_group_size` and `freeze_norm` are `BatchNorm`'s `group_size` and `frozen`, for every norm
    of the network; `dtype` is what activations are computed in.
    """

    spec: ResNetSpec
    dtype: jnp.dtype = jnp.float32
    norm_group_size: int | None = None
    freeze_norm: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Float images [B, H, W, C] -> the pyramid {"c1": the stem, "c2": the first stage, ...}.

        c1 is at half size (CIFAR stems: full size), and every later level at half of the one
        before it (CIFAR: c2 too is at full size). The last level of a v2 network is behind its
        closing norm and relu, ready to be pooled.
        """
        spec = self.spec
        conv = partial(Conv, kernel_init=INITIALIZERS[spec.kernel_init](), dtype=self.dtype)
        norm = partial(
            BatchNorm,
            momentum=spec.norm_momentum,
            epsilon=spec.norm_epsilon,
            group_size=self.norm_group_size,
            frozen=self.freeze_norm,
            dtype=self.dtype,
        )
        x = images.astype(self.dtype)
        stem = spec.stem_convs()
        for i, plan in enumerate(stem, start=1):
            x = conv(plan.features, plan.kernel, plan.stride, name=f"stem_conv{i}")(x)
            if not (spec.preact and i == len(stem)):  # v2's first block brings its own
                x = nn.relu(norm(name=f"stem_norm{i}")(x, train=train))
        pyramid = {"c1": x}
        if spec.stem_pool:
            x = max_pool(x)

        plans = tuple(spec.blocks())
        last = max(len(plans) - 1, 1)
        for s in range(1, len(spec.depths) + 1):
            here = [i for i, plan in enumerate(plans) if plan.stage == s]
            x = Stage(
                spec,
                tuple(plans[i] for i in here),
                tuple(spec.drop_path * i / last for i in here),
                conv,
                norm,
                name=f"stage{s}",
            )(x, train=train)
            pyramid[f"c{s + 1}"] = x
        if spec.preact:
            pyramid[f"c{len(spec.depths) + 1}"] = nn.relu(norm(name="norm")(x, train=train))
        return pyramid
