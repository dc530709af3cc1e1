"""Training images that could not be read, and reads that were repeated."""

from collections.abc import Iterable

from train.data.batch import HostBatch
from train.data.sources import Source
from train.distributed.processes import Processes
from train.report.metrics_file import Row

_SHOWN = 10  # names in the message


class Unreadable:
    """Counts unreadable training images (`data.on_bad_image` "skip") and repeated reads.

    Attributes:
      indices: of the unreadable images in the training split; part of a checkpoint.
      retried: number of repeated reads in this process since it started.
    """

    def __init__(self, indices: Iterable[int] = ()) -> None:
        self.indices = set(indices)
        self.retried = 0

    def add(self, batch: HostBatch) -> None:
        """Takes the columns `unreadable` and `retried` of the batches that this process read."""
        self.indices.update(int(i) for i in batch["unreadable"] if i >= 0)
        self.retried += int(batch["retried"].sum())

    def sync(self, processes: Processes) -> None:
        """Takes the images that other processes could not read. All processes call it together."""
        self.indices.update(*processes.gather(sorted(self.indices)))

    def as_row(self) -> Row:
        """For metrics.jsonl: `skipped` and `retried`, where they are not 0."""
        row = {"skipped": len(self.indices), "retried": self.retried}
        return {name: count for name, count in row.items() if count}

    def describe(self, source: Source) -> str | None:
        """A line for the end of a run; None: all images could be read."""
        count = len(self.indices)
        if not count:
            return None
        names = ", ".join(source.name(i) for i in sorted(self.indices)[:_SHOWN])
        more = f" and {count - _SHOWN:,} more" if count > _SHOWN else ""
        images = "image" if count == 1 else "images"
        return f"skipped {count:,} unreadable training {images}: {names}{more}"
