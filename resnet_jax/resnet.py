"""The stages and the backbone of a residual network, built from a `ResNetSpec`."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax import scan
from resnet_jax.block import Block, Layer, make_conv
from resnet_jax.conv import Conv, anti_alias, max_pool
from resnet_jax.init import constant, kernel_initializer
from resnet_jax.layers import FractionalMaxPool, activate
from resnet_jax.norm import BatchNorm, GroupNorm
from resnet_jax.plans import BlockPlan, ConvPlan
from resnet_jax.remat import SAVE_POLICY
from resnet_jax.spec import ResNetSpec


class Stage(nn.Module):
    """Consecutive blocks of one width.

    The blocks after the first are identical. With `scan`, in a stage of at least four blocks, they
    run as a loop over their stacked variables (`resnet_jax.scan`).

    Args:
      spec: of the network.
      plans: one for each block.
      drop_paths: of each block, the probability that an example skips its branch.
      conv: constructor of convolutions.
      norm: constructor of norms.
      scan: whether identical blocks run as a loop.
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
        unrolled = self.plans[:1] if loops else self.plans
        for i, (plan, rate) in enumerate(zip(unrolled, self.drop_paths, strict=False), start=1):
            parts = (self.spec, plan, self.conv, self.norm, self._in_block or not loops)
            x = Block(*parts, name=f"block{i}")(x, rate, train=train)
        return self._loop(x, train) if loops else x

    @property
    def _in_block(self) -> bool:
        """Whether the last activation of a block in a loop is its own: it has parameters."""
        return self.spec.activation == "prelu"

    def _loop(self, x: jax.Array, train: bool) -> jax.Array:
        """The blocks after the first, as a loop.

        v1's last activation is here part of the next block. A block saves its input for the
        backward pass, which is all that the gradient of the activation needs.
        """
        conv = partial(self.conv, in_scan=True)
        parts = (self.spec, self.plans[1], conv, self.norm, self._in_block)
        kind, slope = self.spec.activation, self.spec.activation_slope
        outside = not (self.spec.preact or self._in_block)
        act = partial(activate, kind, slope, name="") if outside else lambda x: x
        if self.is_initializing():
            assert self.scope is not None
            names = [f"block{i}" for i in range(2, len(self.plans) + 1)]
            rng = self.scope.rngs["params"]
            stacked = scan.init_stacked(Block(*parts, parent=None), rng, names, x, train=False)
            for collection, variables in stacked.items():
                self.put_variable(collection, scan.STACKED, variables)

        def body(block: Block, x: jax.Array, rate: jax.Array | None) -> tuple[jax.Array, None]:
            return block(act(x), 0.0 if rate is None else rate, train=train), None

        loop = nn.scan(
            nn.remat(body, prevent_cse=False, policy=SAVE_POLICY),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            length=len(self.plans) - 1,
        )
        rates = jnp.asarray(self.drop_paths[1:]) if any(self.drop_paths) else None
        return act(loop(Block(*parts, name=scan.STACKED), x, rates)[0])


class ResNet(nn.Module):
    """The backbone of a residual network.

    Args:
      spec: the architecture.
      dtype: of activations.
      norm_group_size: `BatchNorm.group_size` of all norms.
      freeze_norm: `BatchNorm.frozen` of all norms.
      scan: identical blocks of a stage run as a loop. The variables then have the stacked layout
        (see `stack_blocks`).
      fuse_norm: `BatchNorm.fuse` of all norms.
    """

    spec: ResNetSpec
    dtype: jnp.dtype = jnp.float32
    norm_group_size: int | None = None
    freeze_norm: bool = False
    scan: bool = False
    fuse_norm: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Float images [B, H, W, C] -> feature maps {"c1": of the stem, "c2": of stage 1, ...}.

        c1 has half the size of the images (CIFAR stems: full size). Each later map has half the
        size of the previous one (CIFAR: c2 has full size too), down to `output_stride`. The last
        map of a v2 network is taken after the final norm and activation, ready to be pooled.
        """
        spec = self.spec
        act = partial(activate, spec.activation, spec.activation_slope)
        conv, norm = self._conv_layer(), self._norm_layer()
        x = images.astype(self.dtype)
        stem = spec.stem_convs()
        for i, plan in enumerate(stem, start=1):
            x = make_conv(conv, plan, f"stem_conv{i}")(x)
            if not (spec.preact and i == len(stem)):  # v2: the first block has them
                x = act(norm(name=f"stem_norm{i}")(x, train=train), f"stem_act{i}")
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
            pyramid[f"c{len(spec.depths) + 1}"] = act(norm(name="norm")(x, train=train), "act")
        return pyramid

    def _conv_layer(self) -> Layer:
        spec = self.spec
        return partial(
            Conv,
            standardize=spec.weight_standardization,
            kernel_init=kernel_initializer(
                spec.kernel_init, spec.kernel_fan, spec.kernel_slope, spec.kernel_std
            ),
            dtype=self.dtype,
        )

    def _norm_layer(self) -> Layer:
        spec = self.spec
        if spec.norm == "group":
            return partial(
                GroupNorm,
                groups=spec.norm_groups,
                epsilon=spec.norm_epsilon,
                bias_init=constant(spec.norm_bias),
                dtype=self.dtype,
            )
        return partial(
            BatchNorm,
            momentum=spec.norm_momentum,
            epsilon=spec.norm_epsilon,
            group_size=self.norm_group_size,
            frozen=self.freeze_norm,
            fuse=self.fuse_norm,
            bias_init=constant(spec.norm_bias),
            dtype=self.dtype,
        )

    def _pool(self, x: jax.Array, conv: Layer, norm: Layer, train: bool) -> jax.Array:
        """The pooling after the stem; halves the map (fractional: divides it by sqrt 2)."""
        spec = self.spec
        pool, kind = spec.pool, spec.anti_alias
        if pool == "none":
            return x
        if pool == "fractional":
            return FractionalMaxPool(name="stem_pool")(x, train=train)
        if pool == "conv":
            plan = ConvPlan(3, x.shape[-1], 2 if kind == "none" else 1)
            x = make_conv(conv, plan, "stem_pool_conv")(x)
            x = x if kind == "none" else anti_alias(x, kind, 2)
            x = norm(name="stem_pool_norm")(x, train=train)
            return activate(spec.activation, spec.activation_slope, x, "stem_pool_act")
        if kind == "avg":
            return anti_alias(x, kind, 2)
        if kind == "blur":
            return anti_alias(max_pool(x, 1, zero_pad=pool == "zero_max"), kind, 2)
        return max_pool(x, zero_pad=pool == "zero_max")
