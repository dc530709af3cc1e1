"""train/data/pipeline.py: storage that fails, temporarily or permanently."""

import dataclasses
import errno
import os
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from tests.data.test_pipeline import (
    DATA,
    SKIP,
    N,
    assert_same,
    batches,
    column,
    evaluated,
    noise,
    photos,
)
from train.config import DataConfig, RunError
from train.data.sources import Example

# --- storage that fails --------------------------------------------------------------------------


class Flaky:
    """A source whose reads of some examples fail the first `times` times; None: always."""

    channels = 3

    def __init__(self, failing: Sequence[int], times: int | None, number: int = errno.EIO) -> None:
        self.good, self.failing, self.times, self.number = noise(), failing, times, number
        self.class_names, self.name, self.reads = self.good.class_names, self.good.name, [0] * N

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Example:
        self.reads[index] += 1
        if index in self.failing and (self.times is None or self.reads[index] <= self.times):
            raise OSError(self.number, os.strerror(self.number))
        return self.good[index]


READING = [{"threads": 0}, {"threads": 4}, {"threads": 2, "workers": 2}]


@pytest.mark.parametrize("options", READING, ids=str)
def test_a_read_that_is_tried_again_gives_the_same_batch(options):
    data = dataclasses.replace(DATA, **options)
    failing = [3, 4, 11]
    found = batches(Flaky(failing, 2), 10, 0, 2, data=data)
    whole = batches(noise(), 10, 0, 2)
    counts = np.where(np.isin(column(found, "index"), failing), 2, 0)
    assert column(found, "retried").tolist() == counts.tolist() and counts.sum() == 6
    for batch in found:
        batch["retried"] *= 0
    assert_same(found, whole)


def test_evaluation_tries_again():
    found = evaluated(Flaky([0, 5], 1, errno.ETIMEDOUT), 8)
    assert column(found, "retried").tolist() == [1, 0, 0, 0, 0, 1, *[0] * 18]
    np.testing.assert_array_equal(column(found, "image"), column(evaluated(noise(), 8), "image"))


def down(threads: int, workers: int, on_bad_image: str) -> DataConfig:
    options = {"threads": threads, "workers": workers, "on_bad_image": on_bad_image, "retries": 1}
    return dataclasses.replace(DATA, **options)


DOWN = r"^test\[3\]: \[Errno 5\] Input/output error, tried 2 times"


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
@pytest.mark.parametrize("threads", [0, 4])
def test_storage_that_stays_away_is_no_bad_image(threads, on_bad_image):
    data = down(threads, 0, on_bad_image)
    for stream in (batches, lambda source, *_, data: evaluated(source, 5, data)):
        with pytest.raises(RunError, match=DOWN):
            stream(Flaky([3], None), 10, 0, 2, data=data)


def test_workers_say_that_storage_stays_away():
    with pytest.raises(RunError, match=DOWN):
        batches(Flaky([3], None), 10, 0, 2, data=down(0, 1, "skip"))


def test_a_real_file_on_a_failing_disk(tmp_path):
    source = photos(tmp_path, {})
    source.files[2].rename(tmp_path / "away")
    source.files[2].symlink_to("/proc/self/mem")  # reads of address 0 fail with EIO
    with pytest.raises(RunError, match=r"^2\.png: .*Input/output error.*tried 1 times"):
        evaluated(source, 8, dataclasses.replace(SKIP, retries=0))

    def mend() -> None:
        source.files[2].unlink()
        (tmp_path / "away").rename(source.files[2])

    later = threading.Timer(0.2, mend)
    later.start()
    [batch] = evaluated(source, 8)
    later.join()
    assert (
        batch["mask"].all() and batch["retried"][2] >= 2 == np.count_nonzero(batch["retried"]) + 1
    )


class Deadly(Flaky):
    def __getitem__(self, index: int) -> Example:
        os._exit(9)


def test_a_worker_that_dies_is_named():
    data = dataclasses.replace(DATA, workers=1)
    with pytest.raises(RunError, match=r"process of data\.workers died.* exit code 9"):
        batches(Deadly([], 0), 10, 0, 1, data=data)
