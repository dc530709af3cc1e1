"""`TrainState`: the arrays that training changes and that a checkpoint contains."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from train.distributed.mesh import fsdp_sharding, replicated_sharding

Variables = dict[str, Any]

_NEW_HEAD = 1
"""Folded into the random key of a new head."""


@flax.struct.dataclass
class TrainState:
    """Only arrays: no random key, no function. The rest is rebuilt from the run's config.

    `ema` holds the averaged {"params", "batch_stats"}; {} without averaging.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Variables

    @property
    def variables(self) -> Variables:
        """The variables for `model.apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_variables(model: nn.Module, image_size: int, seed: int) -> Variables:
    """New variables for images [1, image_size, image_size, 3], which depend only on the seed.

    A network without BatchNorm has no statistics: {"params": ..., "batch_stats": {}}.
    """
    return _init(model, image_size, jax.random.key(seed), lambda variables: variables)


def init_head(model: nn.Module, image_size: int, seed: int) -> Any:
    """The parameters of a new head for a trained backbone, which depend only on the seed.

    The key differs from that of `init_variables`. With the same key and seed, a backbone that was
    trained from `init_variables` would get the head that its own training started from.
    """
    key = jax.random.fold_in(jax.random.key(seed), _NEW_HEAD)
    return _init(model, image_size, key, lambda variables: variables["params"]["head"])


def _init(model: nn.Module, image_size: int, key: jax.Array, part: Callable[[Any], Any]) -> Any:
    """A part of new variables; the other parts are not computed."""

    def init(key: jax.Array) -> Any:
        variables = model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        return part({"batch_stats": {}, **variables})

    # On one local device: a sharded host callback would have to run in every process.
    with jax.default_device(jax.local_devices()[0]):
        return jax.jit(init)(key)


def first_state(variables: Variables, tx: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state before the first step. A pure function, to be traced."""
    average = jax.tree.map(jnp.copy, variables) if ema else {}
    params, stats = variables["params"], variables["batch_stats"]
    return TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), average)


def state_sharding(state: TrainState, mesh: Mesh, *, params: bool = False) -> TrainState:
    """The sharding of a state, or of its shapes, on the mesh.

    The optimiser's state and the EMA are sharded over the mesh's `fsdp` axis (ZeRO,
    arXiv:1910.02054); with `params` the parameters are too. The rest is replicated: BatchNorm's
    statistics and the step.
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
    shard_params: bool = False,
) -> TrainState:
    """The state before the first step, created with the sharding of `state_sharding`."""
    start = partial(first_state, tx=tx, ema=ema)
    shapes = jax.eval_shape(start, variables)
    sharding = state_sharding(shapes, mesh, params=shard_params)
    variables = jax.device_put(variables, replicated_sharding(mesh))
    return jax.jit(start, out_shardings=sharding)(variables)
