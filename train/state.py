"""`TrainState`: what is trained is what is checkpointed."""

from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from train.mesh import replicated, sharded

Variables = dict[str, Any]


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

    def init(key: jax.Array) -> Any:
        variables = model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        return {"batch_stats": {}, **variables}

    # One local device: a sharded host callback would need every process to answer it.
    with jax.default_device(jax.local_devices()[0]):
        return jax.jit(init)(jax.random.key(seed))


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
    sharding = jax.tree.map(lambda _: replicated(mesh), state)
    cut = {"opt_state", "ema"} | ({"params"} if params else set())
    return sharding.replace(**{name: sharded(getattr(state, name), mesh) for name in cut})


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
    variables = jax.device_put(variables, replicated(mesh))
    return jax.jit(start, out_shardings=sharding)(variables)
