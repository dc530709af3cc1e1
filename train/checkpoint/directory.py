"""The folder of a run's checkpoints: which there are, which is the best, which may go."""

import errno
import math
import os
import shutil
from pathlib import Path

from train.checkpoint.reader import CorruptCheckpoint, Record, read_record
from train.config import CheckpointConfig

_UNFINISHED = ".orbax-checkpoint-tmp"
_GOING = ".deleted"


class Folder:
    """Each checkpoint is a folder named after its step, written elsewhere and renamed when whole.

    What goes is renamed first: no part of a checkpoint ever stands under its name.
    """

    def __init__(self, path: Path, config: CheckpointConfig) -> None:
        # TensorStore takes no "..", and a relative path would follow the working directory.
        self.path, self._config = path.resolve(), config

    def prepare(self) -> None:
        """Makes the folder and clears away what a kill has left. Raises `OSError`."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK | os.X_OK):
            read_only = os.statvfs(self.path).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise OSError(number, os.strerror(number))
        for path in self.path.iterdir():
            if _UNFINISHED in path.name or path.suffix == _GOING:
                shutil.rmtree(path)

    def steps(self) -> list[int]:
        """Steps that were saved whole, ascending."""
        if not self.path.is_dir():
            return []
        names = [path.name for path in self.path.iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def step(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.path / str(step)

    def records(self) -> dict[int, Record | CorruptCheckpoint]:
        """What every checkpoint says of itself, ascending, or why it cannot be read."""
        records: dict[int, Record | CorruptCheckpoint] = {}
        for step in self.steps():
            try:
                records[step] = read_record(self.step(step))
            except CorruptCheckpoint as error:
                if self.step(step).is_dir():  # else a training beside this has just deleted it
                    records[step] = error
        return records

    def best(self, records: dict[int, Record | CorruptCheckpoint]) -> int | None:
        """The best by `checkpoint.best`, the newer of equals; None: none was evaluated."""
        scores = {}
        for step, record in records.items():
            if isinstance(record, Record) and record.metrics is not None:
                figure = record.metrics[self._config.best]
                score = -figure if self._config.best == "loss" else figure
                scores[step] = -math.inf if math.isnan(score) else score
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def sync_unfinished(self) -> None:
        """Before a checkpoint is renamed: TensorStore syncs its data (d/...), Orbax nothing."""
        for unfinished in self.path.glob(f"*{_UNFINISHED}*"):
            for path in [*unfinished.rglob("*"), unfinished]:
                if path.parent.name != "d":
                    _sync(path)

    def prune(self) -> None:
        """After a checkpoint was renamed: deletes all but the best and the newest `keep`."""
        _sync(self.path)  # the new name is on the disk before the older ones go
        records = self.records()
        best = self.best(records)
        for step in list(records)[: -self._config.keep]:
            if step != best and isinstance(records[step], Record):
                going = self.step(step).with_suffix(_GOING)
                self.step(step).rename(going)
                shutil.rmtree(going)

    def quarantine(self, step: int) -> Path:
        """Renames a damaged checkpoint, so that nobody takes it for one. Raises `OSError`."""
        target, count = self.step(step).with_suffix(".corrupt"), 1
        while target.exists():
            count += 1
            target = target.with_suffix(f".corrupt{count}")
        return self.step(step).rename(target)


def _sync(path: Path) -> None:
    """Returns when a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
