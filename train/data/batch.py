"""Batches on the host: their arrays, and filling their rows with examples."""

from dataclasses import dataclass, fields

import numpy as np

from train.config import DataConfig
from train.data.readers import EvalReader, Row, TrainReader

_COLUMNS = tuple(field.name for field in fields(Row))

HostBatch = dict[str, np.ndarray]
"""The arrays of one process's rows of a batch:

- `image` uint8 [B, H, W, C],
- `label` int32 [B]; with `data.multi_label`, uint8 [B, K],
- `mask` float32 [B]: 0 for padding and unreadable examples,
- `index` int32 [B]: the example's index in the source; -1 for padding,
- `unreadable` int32 [B]: the index of an unreadable example that this row requested; else -1,
- `retried` int32 [B]: how often the read was tried again.
"""


def label_array(count: int, data: DataConfig, classes: int) -> tuple[tuple[int, ...], type]:
    """The shape and the type of an array of `count` labels."""
    return ((count, classes), np.uint8) if data.multi_label else ((count,), np.int32)


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
        data, source = self.reader.data, self.reader.source
        shape = (self.count, data.image_size, data.image_size, source.channels)
        return {
            "image": np.empty(shape, np.uint8),
            "mask": np.empty(self.count, np.float32),
            **{name: np.empty(self.count, np.int32) for name in _COLUMNS},
            "label": np.empty(*label_array(self.count, data, len(source.class_names))),
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
