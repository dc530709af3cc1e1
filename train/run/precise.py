"""`eval.precise_bn`: an evaluation with BatchNorm statistics of many training batches."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from train.checkpoint.run_weights import Weights
from train.console import warn
from train.data.prefetch import Feed, Stopped, never
from train.distributed.mesh import Batch, batch_sharding, put_batch, replicated_sharding
from train.learn.precise_bn import batch_statistics, combined
from train.learn.state import Variables
from train.learn.step import input_key, step_key
from train.run.dispatch import sized_batches
from train.run.parts import Run


def precise_batches(run: Run) -> int:
    """`eval.precise_bn`; 0: off, or the network has no BatchNorm."""
    count = run.config.eval.precise_bn
    return count if count and run.abstract_state.batch_stats else 0


def precise(
    run: Run,
    weights: Weights,
    *,
    report: Callable[[str], None] = warn,
    stopped: Callable[[float], bool] = never,
) -> Weights:
    """`weights` with the statistics of the last `eval.precise_bn` training batches of the run.

    The batches are those of training, also augmented and mixed; dropout is on. Without the option,
    the weights are returned as they are.

    Args:
      report, stopped: see `Feed`.

    Raises:
      Stopped: `stopped` returned True.
    """
    config, count = run.config, precise_batches(run)
    if not count:
        return weights
    start = max(run.total_steps - count, 0)
    batches = sized_batches(run, config.data, start, start + count)
    step = _statistics_step(run)
    options: Any = {"report": report, "stopped": stopped, "what": "batch of statistics"}
    found = []
    feed = Feed(batches, partial(put_batch, mesh=run.mesh), config.data, **options)
    with contextlib.closing(feed):
        for number, (_, batch) in enumerate(feed, start=start):
            if stopped(0.0):
                raise Stopped
            found.append(jax.device_get(step(weights.variables, batch, number)))
            del batch
    stats = jax.device_put(combined(found), replicated_sharding(run.mesh))
    return weights._replace(variables={**weights.variables, "batch_stats": stats})


def _statistics_step(run: Run) -> Callable[[Variables, Batch, int], Variables]:
    """(variables, batch, step) -> the statistics of the batch of a training step."""
    prepare, apply, seed = run.prepare, run.model.apply, run.config.seed  # built before tracing

    def step(variables: Variables, batch: Batch, number: jax.Array) -> Variables:
        key = step_key(seed, number)
        batch = prepare(batch, train=True, key=input_key(key), step=number)
        rngs = {"dropout": key}
        return batch_statistics(apply, variables, batch["image"], train=True, rngs=rngs)

    everywhere, data = replicated_sharding(run.mesh), batch_sharding(run.mesh)
    return jax.jit(step, in_shardings=(None, data, None), out_shardings=everywhere)
