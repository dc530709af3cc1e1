"""Batches on the host: their arrays, and filling their rows with examples."""

from dataclasses import dataclass, fields

import numpy as np

from train.data.readers import EvalReader, Row, TrainReader

_COLUMNS = tuple(field.name for field in fields(Row))

HostBatch = dict[str, np.ndarray]
"""The arrays of one process's rows of a batch:

- `image` uint8 [B, H, W, C],
- `label` int32 [B],
- `mask` float32 [B]: 0 for padding and unreadable examples,
- `index` int32 [B]: the example's index in the source; -1 for padding,
- `unreadable` int32 [B]: the index of an unreadable example that this row requested; else -1,
- `retried` int32 [B]: how often the read was tried again.
"""


@dataclass(frozen=True)
class BatchRows:
    """The rows of every global batch that this process reads."""

    reader: TrainReader | EvalReader
    batch_size: int
    """Global."""
    first: int
    """The first row of the global batch that belongs to this process."""
    count: int
    """Number of this process's rows."""

    def new_batch(self) -> HostBatch:
        """An uninitialised batch."""
        size, channels = self.reader.data.image_size, self.reader.source.channels
        return {
            "image": np.empty((self.count, size, size, channels), np.uint8),
            "mask": np.empty(self.count, np.float32),
            **{name: np.empty(self.count, np.int32) for name in _COLUMNS},
        }

    def fill(self, batch: HostBatch, step: int, rows: range) -> None:
        """Reads the examples of some rows of a step into the batch."""
        whole = range(self.first + rows.start, self.first + rows.stop)
        examples = self.reader.examples(self.batch_size, step, whole)
        for row, example in zip(rows, examples, strict=True):
            found = self.reader(example, batch["image"][row])
            for name in _COLUMNS:
                batch[name][row] = getattr(found, name)
            batch["mask"][row] = batch["index"][row] >= 0

    def read(self, step: int) -> HostBatch:
        """Reads the whole batch of a step, one row after the other."""
        batch = self.new_batch()
        self.fill(batch, int(step), range(self.count))
        return batch
