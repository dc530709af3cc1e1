"""The classification head and `create_model`."""

import difflib
import inspect
from collections.abc import Iterable
from dataclasses import fields

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.init import constant, dense_uniform, normal
from resnet_jax.layers import Dense
from resnet_jax.lenet import LeNet
from resnet_jax.norm import at_least_float32
from resnet_jax.resnet import ResNet
from resnet_jax.spec import LeNetSpec, Spec
from resnet_jax.zoo import get_spec


class Classifier(nn.Module):
    """A backbone, global average pooling, dropout and a dense layer.

    The head computes in float32, or in float64 after a float64 backbone.

    Parameters: `backbone/...` and `head/{kernel [features, num_classes], bias}`.
    """

    backbone: ResNet | LeNet
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, pre_logits: bool = False) -> jax.Array:
        """Float images [B, H, W, C] -> float32 logits [B, num_classes].

        With `pre_logits`, returns the pooled features instead: float32 [B, backbone.spec.features].
        """
        spec = self.backbone.spec
        *_, last = self.backbone(images, train=train).values()
        x = last.astype(at_least_float32(last.dtype)).mean((1, 2))
        if pre_logits:
            return x
        x = nn.Dropout(spec.dropout, deterministic=not train, name="dropout")(x)
        kernel = dense_uniform() if spec.head_std is None else normal(spec.head_std)
        starts = kernel, constant(spec.head_bias)
        return Dense(self.num_classes, spec.drop_connect, *starts, name="head")(x, train=train)


def classifier(
    spec: Spec,
    num_classes: int,
    dtype: jnp.dtype = jnp.float32,
    norm_group_size: int | None = None,
    freeze_norm: bool = False,
    scan: bool = False,
    fuse_norm: bool = True,
) -> Classifier:
    """The classifier of a spec; for the other arguments see `create_model`."""
    if isinstance(spec, LeNetSpec):
        return Classifier(LeNet(spec, dtype), num_classes)
    backbone = ResNet(spec, dtype, norm_group_size, freeze_norm, scan, fuse_norm)
    return Classifier(backbone, num_classes)


def create_model(
    name: str,
    num_classes: int = 1000,
    *,
    dtype: jnp.dtype = jnp.float32,
    norm_group_size: int | None = None,
    freeze_norm: bool = False,
    scan: bool = False,
    fuse_norm: bool = True,
    **changes: object,
) -> Classifier:
    """Creates a classifier by name, with any field of its `ResNetSpec` changed.

    Args:
      name: one of `list_models()`.
      num_classes: outputs of the head.
      dtype: of activations; parameters, statistics and logits are always float32.
      norm_group_size: examples per group with separate BatchNorm statistics (see `BatchNorm`).
      freeze_norm: BatchNorm uses its running averages in training too, and does not change them.
      scan: identical blocks of a stage run as a loop, so that compilation time does not grow with
        depth. The variables have another layout (see `stack_blocks`, `unstack_blocks`).
      fuse_norm: in training with a type narrower than float32, a 1x1 convolution that adds channels
        and the BatchNorm after it are computed as one layer. This takes less memory traffic, and
        the result differs by rounding only. Variables and evaluation are the same.
      **changes: fields of `ResNetSpec` (lenet5: of `LeNetSpec`).

    Raises:
      ValueError: unknown name, field or value.

    Examples:
      >>> model = create_model("resnet20_cifar", num_classes=10, drop_path=0.1)
      >>> images = jnp.zeros((2, 32, 32, 3))
      >>> variables = model.init(jax.random.key(0), images, train=False)
      >>> sum(x.size for x in jax.tree.leaves(variables["params"]))
      269722
      >>> model.apply(variables, images, train=False).shape
      (2, 10)
    """
    if num_classes < 1:
        raise ValueError(f"num_classes {num_classes}: must be at least 1")
    if norm_group_size is not None and norm_group_size < 1:
        raise ValueError(f"norm_group_size {norm_group_size}: must be at least 1")
    _check_options(name, changes)
    spec = get_spec(name, **changes)
    if getattr(spec, "norm", None) != "batch" and (norm_group_size or freeze_norm):
        given = f"norm_group_size {norm_group_size}" if norm_group_size else "freeze_norm"
        raise ValueError(f"{given}: {name} has no BatchNorm")
    return classifier(spec, num_classes, dtype, norm_group_size, freeze_norm, scan, fuse_norm)


def _check_options(name: str, changes: Iterable[str]) -> None:
    """Raises `ValueError` for an unknown keyword of `create_model`; lists similar ones.

    `get_spec` knows only the fields of the spec: it would not suggest `num_classes`.
    """
    signature = inspect.signature(create_model).parameters.values()
    own = [p.name for p in signature if p.kind is not inspect.Parameter.VAR_KEYWORD]
    spec = [field.name for field in fields(get_spec(name))]
    for change in changes:
        if change in spec:
            continue
        message = f"unknown option {change!r} of model {name!r}: "
        if change in ("pretrained", "weights"):
            raise ValueError(
                f"{message}create_model makes a network without weights; "
                "resnet_jax.load_pretrained(name, tag) loads published ones, and "
                "resnet_jax.load_weights(path, name) those of a file"
            )
        near = difflib.get_close_matches(change, [*own, *spec], n=3, cutoff=0.7)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ValueError(f"{message}{hint}choose from {', '.join([*own[1:], *spec])}")
