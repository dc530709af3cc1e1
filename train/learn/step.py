"""The training and the evaluation step: plain functions of plain parts. Fork them here."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from train.distributed.mesh import Batch, batch_sharding, replicated_sharding, steps_sharding
from train.learn.optim import ema_decay_at
from train.learn.prepare import Prepare
from train.learn.state import TrainState, Variables
from train.learn.tasks import Task, top_class

_INPUT = 1
"""Folded into the key of a step for the draws of `prepare`."""

Sums = dict[str, jax.Array]
"""Float32 scalars, summed over the examples that the mask admits; `count` is how many."""


def _sum(values: dict[str, jax.Array], mask: jax.Array) -> Sums:
    # where, not a product: a padded example's NaN times 0 is NaN
    sums = {name: jnp.where(mask > 0, value, 0).sum() for name, value in values.items()}
    return {**sums, "count": mask.sum()}


Step = Callable[[TrainState, Batch], tuple[TrainState, Sums]]
TrainSteps = Callable[..., tuple[TrainState, Sums]]
Cut = Callable[[jax.Array, jax.Array, jax.Array], Batch]


def make_step(
    model: nn.Module,
    task: Task,
    tx: optax.GradientTransformation,
    prepare: Prepare,
    mesh: Mesh,
    *,
    seed: int,
    ema_decay: float,
    skip_nonfinite: bool = False,
) -> Step:
    """One optimiser step over a global batch: a plain function, to be traced.

    Args:
      seed: dropout and its kin draw from a key of (seed, step), by place in the global batch.
      ema_decay: of the moving average in `TrainState.ema`; 0 keeps none.
      skip_nonfinite: a step whose loss or gradient is not finite changes `TrainState.step` and
        nothing else: the optimiser's state, with its counters, is as if the step had not been.
        `tx` is told the step (`update(..., step=...)`, which `make_optimizer` takes for the
        learning rate); a schedule of another `tx` counts the steps that were not skipped.

    Returns:
      (state, batch) -> (state, sums): `loss`, the task's metrics and `count`, and `grad_norm`, the
      gradient's global norm before clipping.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        # The network's draws have `key` itself; those on its input another one.
        batch = prepare(batch, train=True, key=jax.random.fold_in(key, _INPUT), step=state.step)

        def mean_loss(params: optax.Params) -> tuple[jax.Array, tuple[Variables, Sums]]:
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch["image"],
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            losses = task.loss(logits, batch)
            sums = _sum({"loss": losses, **task.metrics(logits, batch)}, batch["mask"])
            return sums["loss"] / sums["count"], (updates["batch_stats"], sums)

        params = lax.with_sharding_constraint(state.params, everywhere)  # gathered, if cut
        grads, (batch_stats, sums) = jax.grad(mean_loss, has_aux=True)(params)
        # Else the cuts of the optimiser's state and the EMA spread from here to the activations.
        grads, batch_stats = lax.with_sharding_constraint((grads, batch_stats), everywhere)
        updates, opt_state = told.update(grads, state.opt_state, state.params, step=state.step)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay:
            decay = ema_decay_at(ema_decay, state.step)
            now = {"params": params, "batch_stats": batch_stats}
            ema = optax.incremental_update(now, ema, 1 - decay)
        sums["grad_norm"] = optax.tree.norm(grads)
        new = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
        if skip_nonfinite:
            good = jnp.isfinite(sums["loss"]) & jnp.isfinite(sums["grad_norm"])
            kept = jax.tree.map(partial(jnp.where, good), new, state)
            new = kept.replace(step=new.step)
        return new, sums

    everywhere, told = replicated_sharding(mesh), optax.with_extra_args_support(tx)
    return step


def make_train_step(
    model: nn.Module,
    task: Task,
    tx: optax.GradientTransformation,
    prepare: Prepare,
    mesh: Mesh,
    *,
    sharding: TrainState | None = None,
    **options: Any,
) -> Step:
    """`make_step`, which takes the same arguments, jitted over the mesh, its state donated.

    Args:
      sharding: of the state, from `state_sharding`; None: the whole of it on every device.
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
    """Many steps in one dispatch, over a training set that lives on the devices.

    The number of steps is not part of the program, so that where one dispatch ends and the next
    begins (a checkpoint, a signal) cannot change a bit of what is computed.

    Args:
      step: from `make_step`.
      cut: (images, labels, plan [B, 4]) -> batch, as `Resident.cut`.
      sharding: as in `make_train_step`.

    Returns:
      (state, images, labels, plans int32 [K, B, 4], steps) -> (state, sums): the state, donated,
      after the first `steps` plans; each sum is [K], of which the first `steps` are meant.
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


def make_eval_step(
    model: nn.Module, task: Task, prepare: Prepare, mesh: Mesh
) -> Callable[[Variables, Batch], tuple[Sums, dict[str, jax.Array]]]:
    """One evaluation step, jitted over the mesh.

    Returns:
      (variables, batch) -> (sums, examples): `sums` as in training; `examples` holds each one's
      `prediction` (int32 [B], `top_class`: -1 if no class is ahead), `confidence` (the highest
      softmax probability, [B]) and `loss` ([B]).
    """

    def step(variables: Variables, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        variables = lax.with_sharding_constraint(variables, everywhere)
        batch = prepare(batch, train=False)
        logits: Any = model.apply(variables, batch["image"], train=False)
        losses = task.loss(logits, batch)
        examples = {
            "prediction": top_class(logits),
            "confidence": jax.nn.softmax(logits).max(-1),
            "loss": losses,
        }
        return _sum({"loss": losses, **task.metrics(logits, batch)}, batch["mask"]), examples

    everywhere, data = replicated_sharding(mesh), batch_sharding(mesh)
    # The variables come as they are: cut over the mesh, if the state is.
    return jax.jit(step, in_shardings=(None, data), out_shardings=(everywhere, data))
