"""The residual block, stage and backbone, built from a `ResNetSpec`."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax import scan
from resnet_jax.conv import Conv, anti_alias, avg_pool_down, avg_pool_same, max_pool
from resnet_jax.init import INITIALIZERS
from resnet_jax.layers import (
    ACTIVATIONS,
    DropBlock,
    DropPath,
    EfficientChannelAttention,
    FractionalMaxPool,
    SqueezeExcite,
    pad_shortcut,
)
from resnet_jax.norm import BatchNorm, GroupNorm, at_least_float32
from resnet_jax.remat import SAVE_POLICY
from resnet_jax.spec import BlockPlan, ConvPlan, ResNetSpec

Layer = Any  # a module's constructor with its options filled in


class Block(nn.Module):
    """One residual block of any kind; what it is made of is `plan`, the order of layers `spec`.

    v1: conv-norm-act ... conv-norm, add, act (He 2016a, figure 2).
    v2: norm-act-conv ..., add (He 2016b, figure 1b); a projection starts behind the first
    norm-act, which both paths then share.
    """

    spec: ResNetSpec
    plan: BlockPlan
    conv: Layer
    norm: Layer
    closes: bool = True
    """Whether v1's last activation is part of it."""

    @nn.compact
    def __call__(
        self, x: jax.Array, drop_path: float | jax.Array = 0.0, *, train: bool
    ) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, plan.features].

        `drop_path` is the chance of an example to skip the branch in training.
        """
        spec, convs = self.spec, self.plan.convs
        act, preact = ACTIVATIONS[spec.activation], spec.preact
        y = shortcut = x
        if preact:
            y = act(self.norm(name="norm1")(y, train=train))
            shortcut = y if self.plan.shortcut == "conv" else x
        # A plain network has nothing beside the branch: at zero it would pass no signal.
        zero = spec.zero_gamma and self.plan.shortcut != "none"
        for i, plan in enumerate(convs, start=1):
            last = i == len(convs)
            conv = _conv(self.conv, plan, f"conv{i}", zero=zero and preact and last)
            if last:
                break
            y = self.norm(name=f"norm{i + preact}")(conv(y), train=train)
            if plan.kernel == 3:
                rate, size = self.plan.drop_block, spec.drop_block_size
                y = DropBlock(rate, size, name="drop_block")(y, train=train)
            y = act(y)
            if plan.blur:
                y = anti_alias(y, spec.anti_alias, plan.blur)
            if i == len(convs) - 1 and spec.block_dropout:
                dropout = nn.Dropout(spec.block_dropout, deterministic=not train, name="dropout")
                # Scaled in float32: rounded to bfloat16, the chance would be up to 0.2 % off.
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
                    f"anti_alias 'avg': leaves out the last pixel of a {x.shape[1]}x{x.shape[2]} "
                    "map, which the shortcut keeps; choose an image size that halves evenly"
                )
            y = y + shortcut
        return act(y) if self.closes and not preact else y

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
        conv = _conv(self.conv, plan.projection, "shortcut_conv")
        if self.spec.preact:
            return conv(x)
        return _conv_norm(conv, self.norm(name="shortcut_norm"), x, train)


def _conv_norm(conv: Conv, norm: BatchNorm | GroupNorm, x: jax.Array, train: bool) -> jax.Array:
    """norm(conv(x)), in training as one layer where a 1x1 convolution widens the map."""
    widens = conv.kernel_size == conv.groups == 1 and x.shape[-1] < conv.features
    if not (train and widens and isinstance(norm, BatchNorm) and norm.fuse):
        return norm(conv(x), train=train)
    pixels = -(-x.shape[1] // conv.stride) * -(-x.shape[2] // conv.stride)
    if (norm.group_size or len(x)) * pixels < 8 * x.shape[-1]:
        # What it takes that does not shrink with the map, [C_in, C_in] by [C_in, C], would cost
        # more than an eighth of the convolution.
        return norm(conv(x), train=train)
    kernel = conv.kernel(x.shape[-1])[0, 0]
    x = x[:, :: conv.stride, :: conv.stride].astype(conv.dtype)
    return norm(x, train=train, kernel=kernel)


def _conv(conv: Layer, plan: ConvPlan, name: str, *, zero: bool = False) -> Conv:
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


class Stage(nn.Module):
    """Consecutive blocks of one width.

    Those behind the first are all alike. With `scan`, in a stage of at least four, they run as a
    loop over their stacked variables (`resnet_jax.scan`).
    """

    spec: ResNetSpec
    plans: tuple[BlockPlan, ...]
    drop_paths: tuple[float, ...]
    conv: Layer
    norm: Layer
    scan: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        loops = self.scan and len(self.plans) >= scan.MIN_SCAN_BLOCKS
        one_by_one = self.plans[:1] if loops else self.plans
        for i, (plan, rate) in enumerate(zip(one_by_one, self.drop_paths, strict=False), start=1):
            parts = (self.spec, plan, self.conv, self.norm, not loops)
            x = Block(*parts, name=f"block{i}")(x, rate, train=train)
        return self._loop(x, train) if loops else x

    def _loop(self, x: jax.Array, train: bool) -> jax.Array:
        """What follows the first block.

        v1's last activations are each part of the next block here: a block keeps its input for the
        backward pass, and with it knows the slope of the activation.
        """
        parts = (self.spec, self.plans[1], partial(self.conv, in_scan=True), self.norm, False)
        act = (lambda x: x) if self.spec.preact else ACTIVATIONS[self.spec.activation]
        if self.is_initializing():
            assert self.scope is not None
            names = [f"block{i}" for i in range(2, len(self.plans) + 1)]
            rng = self.scope.rngs["params"]
            alike = scan.initial(Block(*parts, parent=None), rng, names, x, train=False)
            for collection, variables in alike.items():
                self.put_variable(collection, scan.NAME, variables)

        def body(block: Block, x: jax.Array, rate: jax.Array | None) -> tuple[jax.Array, None]:
            return block(act(x), 0.0 if rate is None else rate, train=train), None

        loop = nn.scan(
            nn.remat(body, prevent_cse=False, policy=SAVE_POLICY),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            length=len(self.plans) - 1,
        )
        rates = jnp.asarray(self.drop_paths[1:]) if any(self.drop_paths) else None
        return act(loop(Block(*parts, name=scan.NAME), x, rates)[0])


class ResNet(nn.Module):
    """The backbone.

    `norm_group_size` and `freeze_norm` are `BatchNorm`'s `group_size` and `frozen`, for every norm
    of the network; `dtype` is what activations are computed in. `scan` is `Stage`'s: the variables
    then have another layout. `fuse_norm` is `BatchNorm.fuse`.
    """

    spec: ResNetSpec
    dtype: jnp.dtype = jnp.float32
    norm_group_size: int | None = None
    freeze_norm: bool = False
    scan: bool = False
    fuse_norm: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Float images [B, H, W, C] -> the pyramid {"c1": the stem, "c2": the first stage, ...}.

        c1 is at half size (CIFAR stems: full size), and every later level at half of the one
        before it (CIFAR: c2 too is at full size), down to `output_stride`. The last level of a v2
        network is behind its closing norm and activation, ready to be pooled.
        """
        spec = self.spec
        act = ACTIVATIONS[spec.activation]
        conv, norm = self._conv_layer(), self._norm_layer()
        x = images.astype(self.dtype)
        stem = spec.stem_convs()
        for i, plan in enumerate(stem, start=1):
            x = _conv(conv, plan, f"stem_conv{i}")(x)
            if not (spec.preact and i == len(stem)):  # v2's first block brings its own
                x = act(norm(name=f"stem_norm{i}")(x, train=train))
        pyramid = {"c1": x}
        x = self._pool(x, conv, norm, train)

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
                self.scan,
                name=f"stage{s}",
            )(x, train=train)
            pyramid[f"c{s + 1}"] = x
        if spec.preact:
            pyramid[f"c{len(spec.depths) + 1}"] = act(norm(name="norm")(x, train=train))
        return pyramid

    def _conv_layer(self) -> Layer:
        return partial(
            Conv,
            standardize=self.spec.weight_standardization,
            kernel_init=INITIALIZERS[self.spec.kernel_init](),
            dtype=self.dtype,
        )

    def _norm_layer(self) -> Layer:
        spec = self.spec
        if spec.norm == "group":
            return partial(
                GroupNorm, groups=spec.norm_groups, epsilon=spec.norm_epsilon, dtype=self.dtype
            )
        return partial(
            BatchNorm,
            momentum=spec.norm_momentum,
            epsilon=spec.norm_epsilon,
            group_size=self.norm_group_size,
            frozen=self.freeze_norm,
            fuse=self.fuse_norm,
            dtype=self.dtype,
        )

    def _pool(self, x: jax.Array, conv: Layer, norm: Layer, train: bool) -> jax.Array:
        """What stands between the stem and the first stage; halves the map (fractional: less)."""
        pool, kind = self.spec.pool, self.spec.anti_alias
        if pool == "none":
            return x
        if pool == "fractional":
            return FractionalMaxPool(name="stem_pool")(x, train=train)
        if pool == "conv":
            plan = ConvPlan(3, x.shape[-1], 2 if kind == "none" else 1)
            x = _conv(conv, plan, "stem_pool_conv")(x)
            x = x if kind == "none" else anti_alias(x, kind, 2)
            return ACTIVATIONS[self.spec.activation](norm(name="stem_pool_norm")(x, train=train))
        if kind == "avg":
            return anti_alias(x, kind, 2)
        if kind == "blur":
            return anti_alias(max_pool(x, 1, zero_pad=pool == "zero_max"), kind, 2)
        return max_pool(x, zero_pad=pool == "zero_max")
