"""`TrainState`: what is trained is what is checkpointed."""

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
"""Folded into the key of a new head's draws."""


@flax.struct.dataclass
class TrainState:
    """Only arrays: no key, no function. Everything else is rebuilt from the run's config.

    `ema` is {"params", "batch_stats"} as they are averaged, or {} when they are not.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Variables

    @property
    def variables(self) -> Variables:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_variables(model: nn.Module, image_size: int, seed: int) -> Variables:
    """Fresh variables for images [1, image_size, image_size, 3]: a function of the seed alone.

    A network without BatchNorm has no statistics: {"params": ..., "batch_stats": {}}.
    """

    return _init(model, image_size, jax.random.key(seed), lambda variables: variables)


def init_head(model: nn.Module, image_size: int, seed: int) -> Any:
    """A new classifier for a trained backbone: a function of the seed, as `init_variables`.

    Its key is another one. Else a backbone that was trained from `init_variables` of the same seed
    would meet the very head that it was trained with, and the head would not be new.
    """
    key = jax.random.fold_in(jax.random.key(seed), _NEW_HEAD)
    return _init(model, image_size, key, lambda variables: variables["params"]["head"])


def _init(model: nn.Module, image_size: int, key: jax.Array, part: Callable[[Any], Any]) -> Any:
    """A part of fresh variables; no other part is computed."""

    def init(key: jax.Array) -> Any:
        variables = model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        return part({"batch_stats": {}, **variables})

    # One local device: a sharded host callback would need every process to answer it.
    with jax.default_device(jax.local_devices()[0]):
        return jax.jit(init)(key)


def first_state(variables: Variables, tx: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state before the first step: a pure function, to be traced."""
    average = jax.tree.map(jnp.copy, variables) if ema else {}
    params, stats = variables["params"], variables["batch_stats"]
    return TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), average)


def state_sharding(state: TrainState, mesh: Mesh, *, params: bool = False) -> TrainState:
    """How a state, or one of shapes, lies on the mesh.

    The optimiser's state and the EMA are cut over the mesh's `fsdp` axis (ZeRO, arXiv:1910.02054),
    and so are the parameters if asked; BatchNorm's statistics and the step are on every device.
    """
    sharding = jax.tree.map(lambda _: replicated_sharding(mesh), state)
    cut = {"opt_state", "ema"} | ({"params"} if params else set())
    return sharding.replace(**{name: fsdp_sharding(getattr(state, name), mesh) for name in cut})


def create_state(
    variables: Variables,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    ema: bool,
    shard_params: bool = False,
) -> TrainState:
    """The state before the first step, born as `state_sharding` says."""
    start = partial(first_state, tx=tx, ema=ema)
    shapes = jax.eval_shape(start, variables)
    sharding = state_sharding(shapes, mesh, params=shard_params)
    variables = jax.device_put(variables, replicated_sharding(mesh))
    return jax.jit(start, out_shardings=sharding)(variables)
