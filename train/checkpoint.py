"""Checkpoints of a run, written by Orbax beside the training."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from train.config import CheckpointConfig, ConfigError, RunError
from train.state import TrainState, Variables

Progress = dict[str, Any]
"""What a resume needs beside the state, as JSON: the sums of the logging window still open."""


class Restored(NamedTuple):
    """A checkpoint's content."""

    step: int
    state: TrainState
    progress: Progress


class Weights(NamedTuple):
    """What a run is judged by in a checkpoint: "raw" weights, or "ema" if it averages them."""

    step: int
    name: str
    variables: Variables


def judged(state: TrainState) -> tuple[str, Variables]:
    """The name and the variables that a run is judged by."""
    return ("ema", state.ema) if state.ema else ("raw", state.variables)


class Checkpoints:
    """The `checkpoints` folder of a run: the newest `keep`, and the best.

    A checkpoint is written to a temporary folder and renamed when it is whole, so a kill, or a full
    disk, leaves the ones before it.
    """

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs every file it touches,
        # and on a full disk asyncio repeats the error for every array
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        sign = -1 if config.best == "loss" else 1

        def score(metrics: dict[str, float]) -> float:
            return sign * metrics[config.best]

        policies = ocp.checkpoint_managers
        keep = [
            policies.LatestN(config.keep),
            policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            best_fn=score,  # also what makes the manager store metrics
            cleanup_tmp_directories=True,
        )
        self.folder = folder
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            "progress": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(
            folder.absolute(), item_handlers=handlers, options=options
        )

    def steps(self) -> list[int]:
        """Steps that were saved whole, ascending; as the disk has them, not the manager's plans."""
        return sorted(ocp.utils.checkpoint_steps(self.folder))

    def save(
        self, step: int, state: TrainState, progress: Progress, metrics: dict[str, float] | None
    ) -> None:
        """Starts writing; training goes on meanwhile. `metrics` are the evaluation's, if any.

        Raises:
          RunError: this or an earlier checkpoint could not be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
        )
        with self._named_errors():
            self._manager.save(step, args=items, metrics=metrics)

    def wait(self) -> None:
        """Returns when all that was saved is on disk. Raises `RunError` as `save` does."""
        with self._named_errors():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds for one full disk
            good = self.steps()
            last = f"the last good one is step {good[-1]}" if good else "there is none before it"
            full = os.strerror(errno.ENOSPC)  # TensorStore says it in the middle of 3 kB
            reason = full if full in str(error) else f"{type(error).__name__}: {error}"[:300]
            raise RunError(
                f"a checkpoint could not be written to {self.folder}: {reason}; {last}, and "
                "the same command resumes there"
            ) from error

    def restore(self, state: TrainState) -> Restored | None:
        """The newest checkpoint, in the shapes and shardings of `state`; None without one."""
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
        )
        found = self._manager.restore(step, args=items)
        return Restored(step, found.state, found.progress)

    def restore_weights(self, which: str, sharding: jax.sharding.Sharding) -> Weights:
        """Reads what a network needs, without building the run that trained it.

        Args:
          which: "best" (by `checkpoint.best`), "last" or a step.

        Returns:
          The weights that the run is judged by.

        Raises:
          ConfigError: no such checkpoint.
        """
        step = self._choose(which)
        saved = self._manager.item_metadata(step).state
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), dict(saved)
        )
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        name, variables = judged(TrainState(**self._manager.restore(step, args=items).state))
        return Weights(step, name, variables)

    def _choose(self, which: str) -> int:
        steps = self.steps()
        if not steps:
            raise ConfigError(f"{self.folder}: no checkpoint in it")
        best = self._manager.best_step() if which == "best" else None
        step = best if best is not None else steps[-1]
        if which not in ("best", "last"):
            if not which.isdigit() or int(which) not in steps:
                there = ", ".join(map(str, steps))
                raise ConfigError(f"checkpoint {which!r}: choose best, last or one of {there}")
            step = int(which)
        return step

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        with self._named_errors():
            self._manager.wait_until_finished()
            self._manager.close()
