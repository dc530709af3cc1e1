"""Checkpoints of a run, written by Orbax beside the training."""

import contextlib
import dataclasses
import errno
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import flax.traverse_util
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
from train.config import CheckpointConfig, ConfigError, RunError
from train.learn.state import TrainState, Variables
from train.run.lock import who_trains

_REASONS = [  # what the system said, in the middle of TensorStore's 3 kB
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
]


class Restored(NamedTuple):
    """A checkpoint's content."""

    step: int
    state: TrainState
    progress: Progress
    notes: Sequence[str] = ()
    """What the user has to know: checkpoints that were damaged, and where they are now."""


class Weights(NamedTuple):
    """The weights that a run is evaluated with: "raw", or "ema" if it averages them."""

    step: int
    name: str
    variables: Variables


def eval_weights(state: TrainState) -> tuple[str, Variables]:
    """The name and the variables that a run is evaluated with."""
    return ("ema", state.ema) if state.ema else ("raw", state.variables)


class Checkpoints:
    """The `checkpoints` folder of a run: the newest `keep`, and the best.

    A checkpoint is written to a temporary folder, synced to the disk, and renamed when it is whole;
    only then do older ones go. So a kill or a full disk leaves the ones before it, and so does a
    power loss on a disk that has what it says it has. Whatever is read is compared with digests
    that were taken on the device: a damaged checkpoint is set aside and never used.

    Each process reads and holds no more of a state than its devices do.

    `restore_weights` only reads, so it may run beside a training. Of several processes all call the
    same methods in the same order, on one folder that all of them see.
    """

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs every file it touches,
        # and on a full disk asyncio repeats the error for every array
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        self.folder = folder
        self._folder = Folder(folder, config)
        self._threads = ThreadPoolExecutor(1, "checkpoints")
        self._finishing: Future[None] | None = None
        self._trusted = False

    def steps(self) -> list[int]:
        """Steps that were saved whole, ascending; as the disk has them."""
        return self._folder.steps()

    @cached_property
    def _writer(self) -> ocp.AsyncCheckpointer:
        """Made when the folder is known to be there, and to be writable.

        Raises:
          RunError: it is not.
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
        """Starts writing; training goes on meanwhile. `metrics` are the evaluation's, if any.

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
            self._verify(step)  # before older ones go
            self._folder.prune()

    def _verify(self, step: int) -> None:
        """Reads back what was just written. Raises `RunError` if it is not what was saved."""
        folder = self._folder.step(step)
        try:
            if self._trusted:
                read_record(folder)
            else:
                verify(folder)
        except CorruptCheckpoint as error:
            raise RunError(
                f"checkpoint {step} was written to {self.folder}, but what can be read there is "
                f"not what was saved ({error}): its disk is broken, or something else writes there"
            ) from error
        self._trusted = True

    def check(self) -> None:
        """Raises what `wait` would, if a checkpoint failed by now, without waiting for it."""
        if self._finishing and self._finishing.done():
            self.wait()

    def wait(self) -> None:
        """Returns when all that was saved is on disk. Raises `RunError` as `save` does."""
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
        except Exception as error:  # Orbax and TensorStore raise many kinds for one full disk
            good = self.steps()
            last = f"the last good one is step {good[-1]}" if good else "there is none before it"
            raise RunError(
                f"a checkpoint could not be written to {self.folder}: {_reason(error)}; {last}, "
                "and the same command resumes there"
            ) from error

    def restore(self, state: TrainState) -> Restored | None:
        """The newest checkpoint that is whole, lying on the devices as `state` does; None: no one.

        It may have been saved on any number of devices and processes. What is damaged is set aside
        as "60.corrupt", which the notes say; that is, if there is another one to go on with.

        Raises:
          RunError: there are checkpoints, but none is whole; the folder cannot be written.
          ConfigError: the newest that is whole is one of another model.
        """
        _ = self._writer  # what could not be written later should be known now
        shardings = {name: leaf.sharding for name, leaf in named(state).items()}
        bad: dict[int, str] = {}
        found = None
        while found is None:
            newest = max((step for step in self.steps() if step not in bad), default=-1)
            step = int(multihost_utils.broadcast_one_to_all(np.int32(newest)))
            if step < 0:
                break
            found, why = restore_arrays(self._folder.step(step), lambda _: shardings, state)
            bad = bad if found else {**bad, step: why}
        if found is None and bad:
            tried = "; ".join(f"step {step}: {why}" for step, why in bad.items())
            raise RunError(
                f"none of the checkpoints in {self.folder} can be restored ({tried}). "
                "To start anew, move them away"
            )
        if found is None:
            return None
        for step, record in self._folder.records().items():
            if isinstance(record, CorruptCheckpoint):
                bad.setdefault(step, str(record))
        notes = [f"{self._set_aside(*each)}; step {found.step} is used" for each in bad.items()]
        placed = [found.arrays[name] for name in shardings]
        state = jax.tree.unflatten(jax.tree.structure(state), placed)
        return Restored(found.step, state, found.record.progress, notes)

    def _set_aside(self, step: int, why: str) -> str:
        if jax.process_index() != 0:
            return f"checkpoint {step} is damaged ({why})"
        try:
            target = self._folder.quarantine(step)
        except OSError as error:
            raise RunError(
                f"checkpoint {step} in {self.folder} is damaged ({why}), and cannot be set aside: "
                f"{error.strerror}"
            ) from error
        return f"checkpoint {step} is damaged ({why}); set aside as {target}, which may be deleted"

    def restore_weights(self, which: str, sharding: jax.sharding.Sharding) -> Weights:
        """Reads what a network needs, without building the run that trained it.

        Args:
          which: "best" (by `checkpoint.best`), "last" or a step.

        Returns:
          The weights that the run is evaluated with.

        Raises:
          ConfigError: no such checkpoint, or it is damaged: the message names those that are whole.
        """
        step = self._choose(which)
        found, why = restore_arrays(
            self._folder.step(step), lambda names: dict.fromkeys(_weights(names), sharding)
        )
        if found is None:
            raise self._unusable(step, why)
        paths = {tuple(name.split("/")): array for name, array in found.arrays.items()}
        tree = flax.traverse_util.unflatten_dict(paths)
        parts = {field.name: tree.get(field.name, {}) for field in dataclasses.fields(TrainState)}
        name, variables = eval_weights(TrainState(**parts))
        variables = {"batch_stats": {}, **variables}  # a part without arrays is not stored
        return Weights(step, name, variables)

    def _choose(self, which: str) -> int:
        steps = self.steps()
        if not steps:
            raise self._no_checkpoint()
        if which == "last":
            return steps[-1]
        if which == "best":
            records = self._folder.records()
            for step, record in records.items():
                if isinstance(record, CorruptCheckpoint):  # it may be the best one
                    raise self._unusable(step, str(record))
            best = self._folder.best(records)
            return steps[-1] if best is None else best
        if not which.isdecimal() or int(which) not in steps:
            there = ", ".join(map(str, steps))
            raise ConfigError(f"checkpoint {which!r}: choose best, last or one of {there}")
        return int(which)

    def _no_checkpoint(self) -> ConfigError:
        if (who := who_trains(self.folder.parent)) is not None:
            return ConfigError(
                f"{self.folder}: no checkpoint in it yet. The run is in training{who}; its first "
                "checkpoint comes with its first evaluation"
            )
        damaged = ", ".join(sorted(path.name for path in self.folder.glob("*.corrupt*")))
        only = f" but damaged ones, which were quarantined ({damaged})" if damaged else ""
        return ConfigError(f"{self.folder}: no checkpoint in it{only}. Train again")

    def _unusable(self, step: int, why: str) -> ConfigError:
        whole = [other for other in self.steps() if other != step and self._has_weights(other)]
        choice = "no other one is whole. Put a copy of one back, or move them away and train again"
        if whole:
            choice = f"choose another: --checkpoint {' or '.join(map(str, whole))}"
        return ConfigError(f"checkpoint {step} in {self.folder} is damaged ({why}); {choice}")

    def _has_weights(self, step: int) -> bool:
        try:
            verify(self._folder.step(step), _weights)
        except CorruptCheckpoint:
            return False
        return True

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        with self._named_errors():
            try:
                self._settle()
            finally:
                self._threads.shutdown()
                if "_writer" in self.__dict__:
                    self._writer.close()


def _reason(error: Exception) -> str:
    said = f"{type(error).__name__}: {error}"
    if "barrier" in said:
        return "another process has not written its part"
    return next((words for words in _REASONS if words in said), said[:300])


def _weights(names: Iterable[str]) -> list[str]:
    """The paths in a checkpoint of the weights that a run is evaluated with."""
    names = list(names)
    averaged = [name for name in names if name.startswith("ema/")]
    return averaged or [name for name in names if name.startswith(("params/", "batch_stats/"))]
