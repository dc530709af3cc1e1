"""Background prefetch of batches to the devices, with stall warnings."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from train.config import DataConfig
from train.data.batch import HostBatch
from train.data.thread_pool import JOIN_SECONDS
from train.data.workers import kill_workers

T = TypeVar("T")

_POLL = 0.1  # seconds between two checks of the clock and of `stopped`


class Stopped(Exception):
    """A stop was requested while no batch was available."""


def never(waited: float) -> bool:
    """The `stopped` function of a `Feed` that only ends with its batches."""
    return False


class Feed(Generic[T]):
    """Iterates over (batch, put(batch)), both made in a background thread.

    While the caller uses one batch, the thread makes the next one. So `put`, which copies a batch
    to the devices, overlaps with the training step. At most two batches exist at a time: the
    caller's and the next one. (The caller must drop its batch before it requests the next.)
    Exceptions of the iterator are raised in the caller's thread.

    Args:
      batches: the batches; closed at the end, in the background thread.
      put: makes the second value, usually a copy on the devices.
      data: gives the data set's name for reports, and `stall_seconds`.
      report: receives a message after every `data.stall_seconds` without a batch, in the caller's
        thread.
      stopped: called ten times a second while no batch is available, with the seconds waited so
        far; True raises `Stopped`.
      what, first: reports call the batches "step 124", "step 125", ...: `what` is "step" and
        `first` is 124.

    Raises:
      Stopped: `stopped` returned True while no batch was available.
    """

    def __init__(
        self,
        batches: Iterator[HostBatch],
        put: Callable[[HostBatch], T],
        data: DataConfig,
        *,
        report: Callable[[str], None],
        stopped: Callable[[float], bool] = never,
        what: str = "step",
        first: int = 1,
    ) -> None:
        self._batches, self._put, self._data = batches, put, data
        self._report, self._stopped, self._what, self._first = report, stopped, what, first
        self._arrived = 0
        self._closed = False
        self._room = threading.Semaphore(1)
        self._ready: queue.SimpleQueue[tuple[HostBatch, T] | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            try:
                for batch in self._batches:
                    self._room.acquire()
                    if self._closed:
                        return
                    self._ready.put((batch, self._put(batch)))
                    del batch
            finally:
                if hasattr(self._batches, "close"):
                    self._batches.close()
            self._ready.put(StopIteration())
        except BaseException as error:
            self._ready.put(error)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[HostBatch, T]:
        found = self._wait()
        if isinstance(found, BaseException):
            self._ready.put(found)  # raised again by the next call
            raise found
        self._arrived += 1
        self._room.release()
        return found

    def _wait(self) -> tuple[HostBatch, T] | BaseException:
        since = time.monotonic()
        reports = 0
        while True:
            try:
                found = self._ready.get(timeout=_POLL)
                break
            except queue.Empty:
                waited = time.monotonic() - since
            if waited >= self._data.stall_seconds * (reports + 1):
                reports += 1
                self._report(self._describe(waited))
            if self._stopped(waited):
                raise Stopped
        if reports and not isinstance(found, BaseException):
            self._report(f"{self._name} has its batch, after {time.monotonic() - since:.0f} s")
        return found

    @property
    def _name(self) -> str:
        return f"{self._what} {self._first + self._arrived}"

    def _describe(self, waited: float) -> str:
        where = self._data.name + (f" {self._data.dir}" if self._data.dir else "")
        return (
            f"no batch for {waited:.0f} s ({self._name}, {where}, {self._arrived} batches so far): "
            "the storage or a decoding process hangs"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread and its readers; a daemon thread that hangs is abandoned."""
        self._closed = True
        self._room.release()
        self._thread.join(JOIN_SECONDS)
        if self._thread.is_alive() and kill_workers():
            self._thread.join(JOIN_SECONDS)
        while not self._ready.empty():
            self._ready.get()
        self._ready.put(StopIteration())
