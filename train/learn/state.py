"""`TrainState`: the arrays of a training, and of its checkpoints."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.struct import field
from jax.sharding import Mesh

from train.distributed.mesh import fsdp_sharding, replicated_sharding
from train.learn.loss_scale import LossScale, first_scale

Variables = dict[str, Any]
"""Nested dicts of arrays, as `model.init` returns them."""

_NEW_HEAD = 1
"""Folded into the key of a new head."""


@flax.struct.dataclass
class TrainState:
    """Only arrays: no random key, no function. The rest is rebuilt from the run's config.

    Attributes:
      step: number of steps done, int32.
      ema: averages of {"params", "batch_stats"}; {} without averaging.
      loss_scale: of float16, see `train.learn.loss_scale`; {} in other precisions.
    """

    step: jax.Array
    params: Variables
    batch_stats: Variables
    opt_state: optax.OptState
    ema: Variables
    loss_scale: LossScale = field(default_factory=dict)

    @property
    def variables(self) -> Variables:
        """The variables for `model.apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_variables(model: nn.Module, image_size: int, seed: int) -> Variables:
    """New variables for images [1, image_size, image_size, 3], which depend only on the seed.

    A network without BatchNorm has no statistics: {"params": ..., "batch_stats": {}}.
    """
    return _init(model, image_size, jax.random.key(seed), lambda variables: variables)


def init_head(model: nn.Module, image_size: int, seed: int) -> Variables:
    """A new head for a trained backbone: a function of the seed, as `init_variables`.

    Its key differs from that of `init_variables`. Otherwise a backbone that was trained with the
    same seed would get the same head again.
    """
    key = jax.random.fold_in(jax.random.key(seed), _NEW_HEAD)
    return _init(model, image_size, key, lambda variables: variables["params"]["head"])


def _init(
    model: nn.Module, image_size: int, key: jax.Array, part: Callable[[Variables], Variables]
) -> Variables:
    """A part of fresh variables; no other part is computed."""

    def init(key: jax.Array) -> Variables:
        variables = model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        return part({"batch_stats": {}, **variables})

    # On one local device: a sharded host callback would have to run in every process.
    with jax.default_device(jax.local_devices()[0]):
        return jax.jit(init)(key)


def first_state(
    variables: Variables, tx: optax.GradientTransformation, *, ema: bool, loss_scale: bool = False
) -> TrainState:
    """The state before the first step. A pure function, to be traced.

    Args:
      ema: average the variables.
      loss_scale: scale the loss, for a network that computes in float16.
    """
    average = jax.tree.map(jnp.copy, variables) if ema else {}
    params, stats = variables["params"], variables["batch_stats"]
    scale = first_scale() if loss_scale else {}
    return TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), average, scale)


def state_sharding(state: TrainState, mesh: Mesh, *, params: bool = False) -> TrainState:
    """The sharding of each array of a state, which may be a state of shapes.

    The optimiser's state and the EMA are sharded over the `fsdp` axis of the mesh (ZeRO,
    arXiv:1910.02054). BatchNorm's statistics and the step are replicated.

    Args:
      params: shard the parameters too; else they are replicated.
    """
    sharding = jax.tree.map(lambda _: replicated_sharding(mesh), state)
    sharded = {"opt_state", "ema"} | ({"params"} if params else set())
    return sharding.replace(**{name: fsdp_sharding(getattr(state, name), mesh) for name in sharded})


def create_state(
    variables: Variables,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    ema: bool,
    loss_scale: bool = False,
    shard_params: bool = False,
) -> TrainState:
    """The state before the first step, created with the shardings of `state_sharding`."""
    start = partial(first_state, tx=tx, ema=ema, loss_scale=loss_scale)
    shapes = jax.eval_shape(start, variables)
    sharding = state_sharding(shapes, mesh, params=shard_params)
    variables = jax.device_put(variables, replicated_sharding(mesh))
    return jax.jit(start, out_shardings=sharding)(variables)
