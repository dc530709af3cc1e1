"""train/data/prefetch.py: the same batches, prefetched; stalls, stops and the end of threads."""

import dataclasses
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_pipeline import DATA, PAD, N, assert_same, batches, noise
from tests.runs import environment
from train.config import RunError
from train.data import prefetch, thread_pool
from train.data.batch import HostBatch
from train.data.pipeline import train_batches
from train.data.prefetch import Feed, Stopped
from train.data.readers import BadExample
from train.data.sources import Example
from train.data.thread_pool import in_threads


def stream(source, start: int = 0, stop: int = 8, data=DATA) -> Iterator[HostBatch]:
    return train_batches(source, data, PAD, seed=0, batch_size=6, start=start, stop=stop)


def labels(batch: HostBatch) -> list[int]:
    return batch["label"].tolist()


def feeding(found: Iterator[HostBatch], put: Callable = labels, **options) -> Feed:
    return Feed(found, put, **{"data": DATA, "report": pytest.fail, **options})


class Hanging:
    """A source that hangs at example 7 until it is released."""

    channels = 3

    def __init__(self) -> None:
        self.good, self.go, self.hangs = noise(), threading.Event(), threading.Event()
        self.class_names, self.name = self.good.class_names, self.good.name

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Example:
        if index == 7:
            self.hangs.set()
            self.go.wait(60)
        return self.good[index]


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    source = Hanging()
    yield source
    source.go.set()


@pytest.fixture
def impatient(monkeypatch) -> None:
    for module in (prefetch, thread_pool):
        monkeypatch.setattr(module, "JOIN_SECONDS", 0.3)


# --- the same batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 4])
def test_batches_are_those_of_the_iterator(threads):
    data = dataclasses.replace(DATA, threads=threads)
    with feeding(stream(noise(), 2, data=data)) as feed:
        found = list(feed)
    assert_same([batch for batch, _ in found], batches(noise(), 6, 2, 8))
    assert [put for _, put in found] == [labels(batch) for batch, _ in found]


def test_the_end_is_the_end():
    with feeding(stream(noise(), 0, 1)) as feed:
        assert next(feed)[0]["index"].shape == (6,)
        for _ in range(3):
            with pytest.raises(StopIteration):
                next(feed)
    with pytest.raises(StopIteration):
        next(feed)


@pytest.mark.parametrize("error", [BadExample("a.png: no image"), RunError("b"), KeyError("c")])
def test_errors_pass_through_unchanged(error):
    def failing() -> Iterator[HostBatch]:
        yield from stream(noise(), 0, 2)
        raise error

    with feeding(failing()) as feed:
        assert len([next(feed), next(feed)]) == 2
        for _ in range(2):
            with pytest.raises(type(error)) as raised:
                next(feed)
            assert raised.value is error


def test_what_put_raises_passes_through():
    def put(batch: HostBatch) -> None:
        raise MemoryError("the device is full")

    with feeding(stream(noise()), put) as feed, pytest.raises(MemoryError, match="is full"):
        next(feed)


class OnDevice:
    """The result of a test's `put`; counts the instances in memory."""

    there: weakref.WeakSet
    most = 0

    def __init__(self, batch: HostBatch) -> None:
        self.thread = threading.current_thread()
        self.there.add(self)
        OnDevice.most = max(OnDevice.most, len(self.there))


def test_the_next_batch_is_put_beside_the_step_and_no_other():
    OnDevice.there, OnDevice.most = weakref.WeakSet(), 0

    def step(batch: HostBatch, put: OnDevice) -> None:
        assert put.thread is not threading.current_thread()
        if batch["index"][0] != last:
            patience = time.monotonic() + 10
            while len(OnDevice.there) < 2 and time.monotonic() < patience:
                time.sleep(0.001)
            time.sleep(0.01)  # enough for a third one
            assert len(OnDevice.there) == 2

    last = batches(noise(), 6, 7, 8)[0]["index"][0]
    with feeding(stream(noise()), OnDevice) as feed:
        for _ in range(8):
            step(*next(feed))
        with pytest.raises(StopIteration):
            next(feed)
    assert OnDevice.most == 2 and not OnDevice.there


# --- when there is none --------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 4])
def test_a_stall_is_reported_until_it_is_over(hanging, threads):
    said: list[str] = []
    data = dataclasses.replace(DATA, threads=threads, stall_seconds=0.25, dir="/mnt/photos")

    def report(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            hanging.go.set()

    with feeding(stream(hanging, data=data), data=data, report=report, first=124) as feed:
        found = [batch for batch, _ in feed]
    assert_same(found, batches(noise(), 6, 0, 8))
    place = next(i for i, batch in enumerate(found) if 7 in batch["index"])
    where = f"(step {124 + place}, digits /mnt/photos, {place} batches so far)"
    expected = f"no batch for 0 s {where}: the storage or a decoding process hangs"
    assert said[0] == expected  # 0.25, 0.5 and 0.75 seconds
    assert said[1].startswith(("no batch for 0 s", "no batch for 1 s")) and where in said[1]
    assert said[2] == expected.replace("0 s", "1 s")
    assert said[3:] == [f"step {124 + place} has its batch, after 1 s"]


def test_waiting_can_be_given_up(hanging, impatient):
    since = time.monotonic()
    waits: list[float] = []

    def stopped(waited: float) -> bool:
        waits.append(waited)
        return waited > 0.5

    data = dataclasses.replace(DATA, threads=2)
    with feeding(stream(hanging, data=data), stopped=stopped) as feed, pytest.raises(Stopped):
        list(feed)
    assert 0.5 < waits[-1] < 5 and waits == sorted(waits) and len(waits) >= 3
    assert time.monotonic() - since < 10  # closed, with the reader still hanging
    left = [thread for thread in threading.enumerate() if thread.name.startswith(("feed", "read"))]
    assert all(thread.daemon for thread in left) and len(left) == 3  # the feed and its readers


def test_nobody_is_asked_while_batches_come():
    with feeding(stream(noise()), stopped=lambda waited: pytest.fail("asked")) as feed:
        deadline = time.monotonic() + 10
        for _ in range(8):
            while feed._ready.empty() and time.monotonic() < deadline:
                time.sleep(0.001)
            next(feed)


# --- the end -------------------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_twenty_feeds_leave_no_thread_and_no_file():
    data = dataclasses.replace(DATA, threads=4)

    def feed_once(stop: int | None) -> None:
        with feeding(stream(noise(), data=data)) as feed:
            for _ in zip(feed, range(stop or N), strict=False):
                pass

    feed_once(None)
    gc.collect()
    before = (threading.active_count(), open_files())
    for i in range(20):
        feed_once(3 if i % 2 else None)  # half of them are closed early
        assert threading.active_count() == before[0]
    assert open_files() == before[1]


def test_workers_end_with_the_feed():
    data = dataclasses.replace(DATA, workers=1)
    before = threading.active_count()
    with feeding(stream(noise(), stop=1000, data=data)) as feed:
        next(feed)
        assert len(multiprocessing.active_children()) == 1
    assert multiprocessing.active_children() == []
    assert threading.active_count() <= before + 4  # Grain's pool that frees shared memory stays


CHILD = """
import multiprocessing, sys
from dataclasses import replace
from pathlib import Path
from tests.data.test_prefetch import DATA, Asleep, feeding, stream
from train.data import prefetch
from train.data import thread_pool

if __name__ == "__main__":
    prefetch.JOIN_SECONDS = thread_pool.JOIN_SECONDS = 0.5
    asleep, data = Path(sys.argv[2]), replace(DATA, threads=2, workers=int(sys.argv[1]))
    with feeding(stream(Asleep(asleep), data=data), stopped=lambda _: asleep.exists()) as found:
        try:
            list(found)
        except prefetch.Stopped:
            print("stopped")
    print(len(multiprocessing.active_children()), "workers left", flush=True)
    sys.exit(3)
"""


class Asleep(Hanging):
    """A hanging source that can be pickled; it writes a file when it starts to hang."""

    def __init__(self, asleep: Path) -> None:
        self.good, self.asleep = noise(), asleep
        self.class_names, self.name = self.good.class_names, self.good.name

    def __getitem__(self, index: int) -> Example:
        if index == 7:
            self.asleep.touch()
            time.sleep(600)
        return self.good[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_process_whose_reader_hangs_ends(tmp_path, workers):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    done = subprocess.run(
        [sys.executable, str(script), str(workers), str(tmp_path / "asleep")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout == "stopped\n0 workers left\n"


def test_threads_read_in_order_and_so_far_ahead():
    started: list[int] = []

    def read(item: int) -> int:
        started.append(item)
        time.sleep(0.001 * (item % 3))
        return -item

    reading = in_threads(read, range(5, 25), 3, 4)
    assert [next(reading) for _ in range(3)] == [-5, -6, -7]
    time.sleep(0.1)
    assert sorted(started) == list(range(5, 12))  # the three, and four ahead
    assert list(reading) == [-i for i in range(8, 25)]
    assert np.array_equal(sorted(started), range(5, 25))


HALF_READ = """
from tests.data.test_dali import JPEGS, Files
from train.config import AugmentConfig, DataConfig
from train.data.pipeline import train_batches

data, order = DataConfig(image_size=64, threads=2), dict(seed=0, batch_size=8, start=0, stop=1000)
batches = train_batches(Files(JPEGS), data, AugmentConfig(), **order)
print(next(batches)["image"].shape)
"""


def test_a_process_may_end_with_batches_half_read():
    # At its end Python kills threads that run C++ code, and C++ then aborts the process.
    done = subprocess.run(
        [sys.executable, "-c", HALF_READ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.returncode, done.stdout, done.stderr
    assert said == (0, "(8, 64, 64, 3)\n", "")
