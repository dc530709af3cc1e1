"""The training and the evaluation step: plain functions, made to be forked."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NotRequired, Protocol, TypedDict, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from train.distributed.mesh import Batch, batch_sharding, replicated_sharding, steps_sharding
from train.learn.gradients import Gradient, Sums, composed
from train.learn.loss_scale import is_overflow, next_scale
from train.learn.losses import Penalty
from train.learn.optim import ema_decay_at
from train.learn.prepare import Prepare
from train.learn.state import TrainState, Variables
from train.learn.tasks import Task

_INPUT = 1
"""Folded into the key of a step for the draws of `prepare`."""


def input_key(key: jax.Array) -> jax.Array:
    """The key of the draws of `prepare`, from that of a step or of a micro-batch.

    The network draws with `key` itself.
    """
    return jax.random.fold_in(key, _INPUT)


def step_key(seed: int, step: int | jax.Array) -> jax.Array:
    """The key of a step."""
    return jax.random.fold_in(jax.random.key(seed), step)


def _sum(losses: jax.Array, metrics: dict[str, jax.Array], mask: jax.Array) -> Sums:
    # where, not a product: a padded example's NaN times 0 is NaN
    values = {"loss": losses, **metrics}
    sums = {name: jnp.where(mask > 0, value, 0).sum() for name, value in values.items()}
    return {**sums, "count": mask.sum()}


Step = Callable[[TrainState, Batch], tuple[TrainState, Sums]]
TrainSteps = Callable[..., tuple[TrainState, Sums]]
EvalStep = Callable[[Variables, Batch], tuple[Sums, dict[str, jax.Array]]]
Cut = Callable[[jax.Array, jax.Array, jax.Array], Batch]


class StepOptions(TypedDict):
    """The keyword arguments of `make_step`."""

    seed: int
    ema_decay: float | optax.Schedule
    ema_every: NotRequired[int]
    skip_nonfinite: NotRequired[bool]
    penalty: NotRequired[Penalty | None]
    micro_batches: NotRequired[int]
    sam: NotRequired[float]


class JittedStep(Protocol):
    """A `Step` that can also be compiled without data, as functions of `jax.jit` can."""

    def __call__(self, state: TrainState, batch: Batch, /) -> tuple[TrainState, Sums]: ...

    def trace(self, *shapes: Any) -> jax.stages.Traced: ...

    def lower(self, *shapes: Any) -> jax.stages.Lowered: ...


def make_step(
    model: nn.Module,
    task: Task,
    tx: optax.GradientTransformation,
    prepare: Prepare,
    mesh: Mesh,
    *,
    seed: int,
    ema_decay: float | optax.Schedule,
    ema_every: int = 1,
    skip_nonfinite: bool = False,
    penalty: Penalty | None = None,
    micro_batches: int = 1,
    sam: float = 0.0,
) -> Step:
    """One optimiser step over a global batch: a plain function, to be traced.

    Args:
      seed: dropout and other noise in the network use a key made of (seed, step); each example
        draws by its position in the global batch.
      ema_decay: of the moving average in `TrainState.ema`, reached by the ramp of `ema_decay_at`;
        0: no average. A function gives the decay of each step, from 0; see `make_average`.
      ema_every: the average is updated after every `ema_every`-th step.
      skip_nonfinite: a step whose loss or gradient is not finite changes only `TrainState.step`.
        The optimiser's state and its counters stay as they are. `tx` receives the step as
        `update(..., step=...)`, which `make_optimizer` uses for the learning rate; a schedule in
        another `tx` counts the steps that were not skipped.
      micro_batches: number of parts of a batch whose gradients are accumulated; see `accumulate`.
      penalty: of the parameters, added to the mean loss; see `penalised`.
      sam: rho of `sharpness_aware`; 0: off.

    Returns:
      A function (state, batch) -> (state, sums). The sums are `loss`, the task's metrics, `count`,
      `grad_norm`, the global norm of the gradient before clipping, and `penalty`, if there is one.
      With a `TrainState` that has a loss scale, also `loss_scale`, and `overflow`: 1 for a step
      that was skipped because of it.
    """
    everywhere = replicated_sharding(mesh)
    tx = optax.with_extra_args_support(tx)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = step_key(seed, state.step)
        params = lax.with_sharding_constraint(state.params, everywhere)  # gathered, if sharded
        scale = state.loss_scale["scale"] if state.loss_scale else None
        gradient = make_gradient(model, task, prepare, state.step, scale)
        gradient = composed(gradient, mesh, micro_batches, penalty, sam)
        grads, (batch_stats, sums) = gradient(params, state.batch_stats, batch, key)
        # Without this, the sharding of the optimiser's state and the EMA spreads to activations.
        grads, batch_stats = lax.with_sharding_constraint((grads, batch_stats), everywhere)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, step=state.step)
        params = optax.apply_updates(state.params, updates)
        variables = {"params": params, "batch_stats": batch_stats}
        ema = _update_ema(state, variables, ema_decay, ema_every) if ema_decay else state.ema
        sums["grad_norm"] = optax.tree.norm(grads)
        new = TrainState(state.step + 1, params, batch_stats, opt_state, ema, state.loss_scale)
        if state.loss_scale:
            return _scaled(state, new, sums)
        return (_skip_nonfinite(state, new, sums) if skip_nonfinite else new), sums

    return step


def make_gradient(
    model: nn.Module,
    task: Task,
    prepare: Prepare,
    step: jax.Array,
    scale: jax.Array | None = None,
) -> Gradient:
    """The gradient of the mean loss over a batch as the pipeline delivers it, in step `step`.

    Args:
      scale: the backward pass computes with the loss times this; the result is divided by it.
    """

    def gradient(
        params: optax.Params, batch_stats: Variables, batch: Batch, key: jax.Array
    ) -> tuple[optax.Updates, tuple[Variables, Sums]]:
        batch = prepare(batch, train=True, key=input_key(key), step=step)

        def mean_loss(params: optax.Params) -> tuple[jax.Array, tuple[Variables, Sums]]:
            outputs, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                batch["image"],
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            losses, metrics = task.loss(outputs, batch), task.metrics(outputs, batch)
            sums = _sum(losses, metrics, batch["mask"])
            mean = sums["loss"] / sums["count"]
            return mean if scale is None else mean * scale, (updates["batch_stats"], sums)

        grads, found = jax.grad(mean_loss, has_aux=True)(params)
        return grads if scale is None else jax.tree.map(lambda g: g / scale, grads), found

    return gradient


def _update_ema(
    state: TrainState, variables: Variables, ema_decay: float | optax.Schedule, every: int
) -> Variables:
    """The moving average after the step, which produced `variables`."""

    def updated() -> Variables:
        at = state.step
        decay = ema_decay(at) if callable(ema_decay) else ema_decay_at(ema_decay, at)
        return optax.incremental_update(variables, state.ema, 1 - decay)

    if every == 1:
        return updated()
    return lax.cond((state.step + 1) % every == 0, updated, lambda: state.ema)


def _skip_nonfinite(old: TrainState, new: TrainState, sums: Sums) -> Any:
    """`new`; or `old` with the step of `new`, if the loss or the gradient is not finite."""
    kept = jax.tree.map(partial(jnp.where, _is_finite(sums)), new, old)
    return kept.replace(step=new.step)


def _is_finite(sums: Sums) -> jax.Array:
    values = [sums[name] for name in ("loss", "grad_norm", "penalty") if name in sums]
    return reduce(jnp.logical_and, map(jnp.isfinite, values))


def _scaled(old: TrainState, new: TrainState, sums: Sums) -> tuple[TrainState, Sums]:
    """`_skip_nonfinite` with the next loss scale; the sums tell which steps were overflows."""
    finite, scale = _is_finite(sums), old.loss_scale
    overflow = is_overflow(scale, finite).astype(jnp.float32)
    kept = _skip_nonfinite(old, new, sums).replace(loss_scale=next_scale(scale, finite))
    return kept, {**sums, "loss_scale": scale["scale"], "overflow": overflow}


def make_train_step(
    model: nn.Module,
    task: Task,
    tx: optax.GradientTransformation,
    prepare: Prepare,
    mesh: Mesh,
    *,
    sharding: TrainState | None = None,
    **options: Unpack[StepOptions],
) -> JittedStep:
    """`make_step`, which takes the same arguments, jitted over the mesh, its state donated.

    Args:
      sharding: of the state, from `state_sharding`; None: replicated on every device.
    """
    everywhere = replicated_sharding(mesh)
    kept = everywhere if sharding is None else sharding
    return jax.jit(
        make_step(model, task, tx, prepare, mesh, **options),
        in_shardings=(kept, batch_sharding(mesh)),
        out_shardings=(kept, everywhere),
        donate_argnums=0,
    )


def make_train_steps(
    step: Step, cut: Cut, mesh: Mesh, *, sharding: TrainState | None = None
) -> TrainSteps:
    """Many steps in one dispatch, over a training set that is stored on the devices.

    The number of steps is an argument of the compiled program. So the results are bit-identical
    wherever one dispatch ends and the next one begins (at a checkpoint, at a signal).

    Args:
      step: from `make_step`.
      cut: (images, labels, plan [B, 4]) -> batch, such as `Resident.gather_crops`.
      sharding: as in `make_train_step`.

    Returns:
      A function (state, images, labels, plans int32 [K, B, 4], steps) -> (state, sums). It returns
      the state after the first `steps` plans (the one passed in is donated), and sums of shape [K],
      of which only the first `steps` are valid.
    """

    def many(
        state: TrainState, images: jax.Array, labels: jax.Array, plans: jax.Array, steps: jax.Array
    ) -> tuple[TrainState, Sums]:
        def one(state: TrainState, plan: jax.Array) -> tuple[TrainState, Sums]:
            return step(state, cut(images, labels, plan))

        def body(i: jax.Array, carry: tuple[TrainState, Sums]) -> tuple[TrainState, Sums]:
            state, sums = carry
            state, new = one(state, plans[i])
            return state, jax.tree.map(lambda whole, x: whole.at[i].set(x), sums, new)

        shapes = jax.eval_shape(one, state, plans[0])[1]
        sums = jax.tree.map(lambda x: jnp.zeros((len(plans), *x.shape), x.dtype), shapes)
        return lax.fori_loop(0, steps, body, (state, sums))

    everywhere = replicated_sharding(mesh)
    kept = everywhere if sharding is None else sharding
    return jax.jit(
        many,
        in_shardings=(kept, everywhere, everywhere, steps_sharding(mesh), everywhere),
        out_shardings=(kept, everywhere),
        donate_argnums=0,
    )


def make_eval_step(model: nn.Module, task: Task, prepare: Prepare, mesh: Mesh) -> EvalStep:
    """One evaluation step, jitted over the mesh.

    Returns:
      A function (variables, batch) -> (sums, examples). The sums are as in training. `examples` has
      the `loss` of each example, [B], and what `Task.examples` returns.
    """
    everywhere, data = replicated_sharding(mesh), batch_sharding(mesh)

    def step(variables: Variables, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        variables = lax.with_sharding_constraint(variables, everywhere)
        batch = prepare(batch, train=False)
        outputs: Any = model.apply(variables, batch["image"], train=False)
        losses, metrics = task.loss(outputs, batch), task.metrics(outputs, batch)
        sums = _sum(losses, metrics, batch["mask"])
        return sums, {**task.examples(outputs, batch), "loss": losses}

    # The variables keep their sharding: that of the state.
    return jax.jit(step, in_shardings=(None, data), out_shardings=(everywhere, data))
