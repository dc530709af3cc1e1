"""The loaders that `benchmarks.input` measures and that need no other package."""

import numpy as np
import pytest

from benchmarks.loaders import LOADERS, find, write_synthetic


@pytest.mark.parametrize("name", ["ours", "Grain"])
def test_batches(name, tmp_path):
    """Shape and type; batches differ from each other, and are the same in a second run."""
    write_synthetic(tmp_path, 2)
    files = find(tmp_path)
    first, second = (
        [next(batches) for _ in range(2)]
        for batches in (LOADERS[name](files, 16, 4, 2, "") for _ in range(2))
    )
    for batch in first:
        assert (batch.shape, batch.dtype) == ((4, 16, 16, 3), np.uint8)
        assert batch.reshape(4, -1).std(axis=1).min() > 5  # a picture in every row
    assert (first[0] != first[1]).mean() > 0.5
    np.testing.assert_array_equal(first, second)
