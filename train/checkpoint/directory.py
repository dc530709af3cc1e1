"""The folder of a run's checkpoints: lists them, finds the best one, deletes old ones."""

import errno
import os
import shutil
from pathlib import Path

from train.checkpoint.reader import CorruptCheckpoint, Record, read_record
from train.config import CheckpointConfig
from train.learn.tasks import Task

_UNFINISHED = ".orbax-checkpoint-tmp"
_DELETED = ".deleted"


class Folder:
    """A folder in which each checkpoint is a subfolder, named by its step.

    A checkpoint is written under another name and renamed when it is complete. Before it is deleted
    it is renamed again. So a subfolder named by a step always has a complete checkpoint.
    """

    def __init__(self, path: Path, config: CheckpointConfig, task: Task) -> None:
        # TensorStore refuses "..", and a relative path depends on the working directory.
        self.path, self._config = path.resolve(), config
        self._ranking = task.ranking(config.best)
        self.shown = path
        """The path as it was given, for messages."""

    def prepare(self) -> None:
        """Creates the folder and deletes incomplete checkpoints in it. Raises `OSError`."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK | os.X_OK):
            read_only = os.statvfs(self.path).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise OSError(number, os.strerror(number))
        for path in self.path.iterdir():
            if _UNFINISHED in path.name or path.suffix == _DELETED:
                shutil.rmtree(path)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self.path.is_dir():
            return []
        names = [path.name for path in self.path.iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def step(self, step: int) -> Path:
        """The subfolder of the checkpoint of a step."""
        return self.path / str(step)

    def records(self) -> dict[int, Record | CorruptCheckpoint]:
        """The record of every checkpoint, or the error if it is unreadable, by ascending step."""
        records: dict[int, Record | CorruptCheckpoint] = {}
        for step in self.steps():
            try:
                records[step] = read_record(self.step(step))
            except CorruptCheckpoint as error:
                if self.step(step).is_dir():  # otherwise a training has just deleted it
                    records[step] = error
        return records

    def best(self, records: dict[int, Record | CorruptCheckpoint]) -> int | None:
        """The step of the best checkpoint by `checkpoint.best`; None: none was evaluated.

        Of equally good ones, the newest is the best.
        """
        metric = self._ranking
        scores = {
            step: metric.score(record.metrics[metric.name])
            for step, record in records.items()
            if isinstance(record, Record) and record.metrics is not None
        }
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def sync_unfinished(self) -> None:
        """Syncs a complete checkpoint to the disk before it is renamed.

        TensorStore syncs its data files (d/...); Orbax syncs nothing.
        """
        for unfinished in self.path.glob(f"*{_UNFINISHED}*"):
            for path in [*unfinished.rglob("*"), unfinished]:
                if path.parent.name != "d":
                    _sync(path)

    def prune(self) -> None:
        """After a new checkpoint was renamed: deletes all but the best and the newest `keep`."""
        _sync(self.path)  # the new name must be on the disk before older ones are deleted
        records = self.records()
        best = self.best(records)
        for step in list(records)[: -self._config.keep]:
            if step != best and isinstance(records[step], Record):
                deleted = self.step(step).with_suffix(_DELETED)
                self.step(step).rename(deleted)
                shutil.rmtree(deleted)

    def quarantine(self, step: int) -> Path:
        """Renames a damaged checkpoint to STEP.corrupt, and returns the path. Raises `OSError`."""
        target, count = self.step(step).with_suffix(".corrupt"), 1
        while target.exists():
            count += 1
            target = target.with_suffix(f".corrupt{count}")
        return self.step(step).rename(target)


def _sync(path: Path) -> None:
    """Syncs a file, or the list of names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
