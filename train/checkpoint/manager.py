"""Saves and restores the checkpoints of a run; Orbax writes them while training continues."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from train.checkpoint.digests import digests, named
from train.checkpoint.directory import Folder
from train.checkpoint.paths import ArraysSave, make_writer
from train.checkpoint.reader import (
    CorruptCheckpoint,
    Progress,
    Record,
    read_record,
    to_json,
    verify,
)
from train.checkpoint.restore import restore as restore_arrays
from train.checkpoint.run_weights import Weights, restore_weights
from train.config import CheckpointConfig, RunError
from train.learn.state import TrainState
from train.learn.tasks import Task

_REASONS = [  # system errors that TensorStore quotes inside 3 kB of text
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
]


class Restored(NamedTuple):
    """The content of a checkpoint, restored to the devices."""

    step: int
    state: TrainState
    progress: Progress
    notes: Sequence[str] = ()
    """Messages for the user about damaged checkpoints, which were quarantined."""


class Checkpoints:
    """The `checkpoints` folder of a run, with the newest `keep` checkpoints and the best one.

    A checkpoint is written to a temporary folder, synced to the disk, and renamed when it is
    complete. Only then are older ones deleted. So the previous checkpoints survive a kill, a full
    disk and a power failure (if the disk has really written what it reports as written). All data
    that are read are compared with digests that were computed on the devices. A damaged checkpoint
    is quarantined and reported; the previous checkpoint is used.

    Each process reads and holds only those parts of a state that its devices hold.

    `restore_weights` only reads, so it may run during a training. With several processes, all call
    the same methods in the same order, on one shared folder.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, task: Task) -> None:
        # Orbax logs every file, and on a full disk asyncio repeats the error for every array.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        self.folder = folder
        self._folder = Folder(folder, config, task)
        self._threads = ThreadPoolExecutor(1, "checkpoints")
        self._finishing: Future[None] | None = None
        self._trusted = False

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints on the disk, ascending."""
        return self._folder.steps()

    @cached_property
    def _writer(self) -> ocp.AsyncCheckpointer:
        """Orbax's writer, made after a check that the folder is writable.

        Raises:
          RunError: the folder is not writable.
        """
        if jax.process_index() == 0:
            try:
                self._folder.prepare()
            except OSError as error:
                raise RunError(
                    f"no checkpoint can be written to {self.folder}: {error.strerror}"
                ) from error
        return make_writer(self._folder.sync_unfinished)

    def save(
        self, step: int, state: TrainState, progress: Progress, metrics: dict[str, float] | None
    ) -> None:
        """Starts to write a checkpoint, and returns while it is written.

        Args:
          metrics: of an evaluation at this step; None: there was none.

        Raises:
          RunError: this or an earlier checkpoint could not be written.
        """
        with self._named_errors():
            self._settle()
            record = to_json(step, Record(progress, metrics, digests(state)))
            items = ocp.args.Composite(state=ArraysSave(state), progress=ocp.args.JsonSave(record))
            self._writer.save(self._folder.step(step), args=items)
            self._finishing = self._threads.submit(self._finish, step)

    def _finish(self, step: int) -> None:
        self._writer.wait_until_finished()
        if jax.process_index() == 0:
            self._verify(step)  # before older ones are deleted
            self._folder.prune()

    def _verify(self, step: int) -> None:
        """Reads a new checkpoint back. Raises `RunError` if it differs from what was saved."""
        folder = self._folder.step(step)
        try:
            if self._trusted:
                read_record(folder)
            else:
                verify(folder)
        except CorruptCheckpoint as error:
            raise RunError(
                f"checkpoint {step} was written to {self.folder}, but reading it back gives other "
                f"data ({error}): the disk is broken, or another program writes to this folder"
            ) from error
        self._trusted = True

    def check(self) -> None:
        """Raises the error of `wait` if a checkpoint has failed already; does not wait."""
        if self._finishing and self._finishing.done():
            self.wait()

    def wait(self) -> None:
        """Returns when all checkpoints are on the disk. Raises `RunError` as `save` does."""
        with self._named_errors():
            self._settle()

    def _settle(self) -> None:
        finishing, self._finishing = self._finishing, None
        if finishing:
            finishing.result()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except RunError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many types for a full disk
            good = self.steps()
            last = f"the last good one is step {good[-1]}" if good else "there is none before it"
            raise RunError(
                f"a checkpoint could not be written to {self.folder}: {_reason(error)}; {last}, "
                "and the same command resumes there"
            ) from error

    def restore(self, state: TrainState) -> Restored | None:
        """Restores the newest undamaged checkpoint; None: there are no checkpoints.

        It may have been saved with any number of devices and processes. Damaged checkpoints are
        quarantined as "60.corrupt" and reported in `Restored.notes`, unless all are damaged.

        Args:
          state: a state of this run; the arrays get its shapes, dtypes and shardings.

        Raises:
          RunError: all checkpoints are damaged; or the folder is not writable.
          ConfigError: the newest undamaged checkpoint belongs to another model.
        """
        _ = self._writer  # checks now that the folder is writable
        shardings = {name: leaf.sharding for name, leaf in named(state).items()}
        damaged: dict[int, str] = {}
        found = None
        while found is None:
            newest = max((step for step in self.steps() if step not in damaged), default=-1)
            step = int(multihost_utils.broadcast_one_to_all(np.int32(newest)))
            if step < 0:
                break
            found, why = restore_arrays(self._folder.step(step), lambda _: shardings, state)
            damaged = damaged if found else {**damaged, step: why}
        if found is None and damaged:
            tried = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
            raise RunError(
                f"none of the checkpoints in {self.folder} can be restored ({tried}). "
                "To start anew, move them away"
            )
        if found is None:
            return None
        for step, record in self._folder.records().items():
            if isinstance(record, CorruptCheckpoint):
                damaged.setdefault(step, str(record))
        notes = [
            f"{self._quarantine(*each)}; step {found.step} is used" for each in damaged.items()
        ]
        placed = [found.arrays[name] for name in shardings]
        state = jax.tree.unflatten(jax.tree.structure(state), placed)
        return Restored(found.step, state, found.record.progress, notes)

    def _quarantine(self, step: int, why: str) -> str:
        if jax.process_index() != 0:
            return f"checkpoint {step} is damaged ({why})"
        try:
            target = self._folder.quarantine(step)
        except OSError as error:
            raise RunError(
                f"checkpoint {step} in {self.folder} is damaged ({why}), and cannot be renamed: "
                f"{error.strerror}"
            ) from error
        return (
            f"checkpoint {step} is damaged ({why}); quarantined as {target}, which may be deleted"
        )

    def restore_weights(self, which: str, sharding: jax.sharding.Sharding) -> Weights:
        """The weights of a checkpoint: see `train.checkpoint.run_weights.restore_weights`."""
        return restore_weights(self._folder, which, sharding)

    def close(self) -> None:
        """Waits until all checkpoints are on the disk, and closes the writer."""
        with self._named_errors():
            try:
                self._settle()
            finally:
                self._threads.shutdown()
                if "_writer" in self.__dict__:
                    self._writer.close()


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if "barrier" in text:
        return "another process has not written its part"
    return next((reason for reason in _REASONS if reason in text), text[:300])
