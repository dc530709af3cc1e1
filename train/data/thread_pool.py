"""A thread pool for reading, whose hanging threads do not block the end of the process."""

import atexit
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")

JOIN_SECONDS = 3.0
"""Seconds to wait for the reads in progress when the pool is closed."""


def in_threads(
    read: Callable[[S], T], items: Iterable[S], threads: int, ahead: int
) -> Generator[T, None, None]:
    """Yields read(item) for all items, in their order.

    An exception of `read` is raised in place of its result.

    Args:
      threads: number of threads; 0: read in the caller's thread, without prefetching.
      ahead: number of items that are read before they are requested.
    """
    if not threads:
        yield from map(read, items)
        return
    pool = _Pool(read, threads)
    try:
        pending: deque[Future[T]] = deque()
        for item in items:
            pending.append(pool.submit(item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.close()


class _Pool(Generic[S, T]):
    """A pool of daemon threads.

    The threads of `concurrent.futures` are joined when the process ends: one read that hangs on a
    broken disk would keep the process alive for ever.
    """

    def __init__(self, read: Callable[[S], T], threads: int) -> None:
        self._read = read
        self._closed = False
        self._jobs: queue.SimpleQueue[tuple[Future[T], S] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"reader-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        # A caller that abandons the iterator may end the process without closing it.
        atexit.register(self.close)

    def submit(self, item: S) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.put((future, item))
        return future

    def _work(self) -> None:
        while (job := self._jobs.get()) and not self._closed:
            future, item = job
            try:
                future.set_result(self._read(item))
            except BaseException as error:
                future.set_exception(error)
            del future, job  # otherwise an idle thread keeps its last result in memory

    def close(self) -> None:
        """Ends the threads and waits for them, unless they hang.

        A thread that wakes up while the interpreter shuts down can crash it.
        """
        if self._closed:  # called at the end of the process, when modules may be gone
            return
        atexit.unregister(self.close)
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
