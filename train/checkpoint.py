"""Checkpoints of a run, written by Orbax beside the training."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from train.config import CheckpointConfig, ConfigError, RunError
from train.state import TrainState

Progress = dict[str, Any]
"""What a resume needs beside the state, as JSON: the sums of the logging window still open."""


class Restored(NamedTuple):
    """A checkpoint's content."""

    step: int
    state: TrainState
    progress: Progress


class Checkpoints:
    """The `checkpoints` folder of a run: the newest `keep`, and the best.

    A checkpoint is written to a temporary folder and renamed when it is whole, so a kill, or a full
    disk, leaves the ones before it.
    """

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every file it touches
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
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def steps(self) -> list[int]:
        """Steps that were saved whole, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: TrainState, progress: Progress, metrics: dict[str, float] | None
    ) -> None:
        """Starts writing; training goes on meanwhile. `metrics` are the evaluation's, if there was one.

        Raises:
          RunError: this or an earlier checkpoint could not be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
        )
        with self._named_errors(step):
            self._manager.save(step, args=items, metrics=metrics)

    def wait(self) -> None:
        """Returns when all that was saved is on disk. Raises `RunError` as `save` does."""
        with self._named_errors(None):
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _named_errors(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds for one full disk
            good = [s for s in self.steps() if s != step]
            last = f"the last good one is step {good[-1]}" if good else "there is none before it"
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise RunError(
                f"a checkpoint could not be written to {self.folder}: {reason}. {last}; "
                "the same command resumes from it"
            ) from error

    def restore(self, state: TrainState, which: str = "last") -> Restored | None:
        """Reads a checkpoint into the shapes and shardings of `state`; None if there is none yet.

        Args:
          which: "last", "best" (by `checkpoint.best`) or a step.

        Raises:
          ConfigError: no checkpoint of that step.
        """
        steps = self.steps()
        if not steps:
            return None
        if which == "best":
            best = self._manager.best_step()
            step = steps[-1] if best is None else best
        elif which == "last":
            step = steps[-1]
        elif which.isdigit() and int(which) in steps:
            step = int(which)
        else:
            there = ", ".join(map(str, steps))
            raise ConfigError(f"checkpoint {which!r}: choose best, last or one of {there}")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
        )
        found = self._manager.restore(step, args=items)
        return Restored(step, found.state, found.progress)

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self.wait()
        self._manager.close()
