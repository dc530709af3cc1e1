"""Reading many things at once, in threads that nothing waits for when they hang."""

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

PATIENCE = 3.0
"""Seconds that a read may take to its end when nobody wants it any more."""


def in_threads(
    read: Callable[[S], T], items: Iterable[S], threads: int, ahead: int
) -> Generator[T, None, None]:
    """read(item) of all items, in order, `ahead` of them beforehand in so many threads.

    What `read` raises is raised where its result would come. With no thread, nothing is read
    beforehand.
    """
    if not threads:
        yield from map(read, items)
        return
    pool = _Pool(read, threads)
    try:
        asked: deque[Future[T]] = deque()
        for item in items:
            asked.append(pool.submit(item))
            if len(asked) > ahead:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()
    finally:
        pool.close()


class _Pool(Generic[S, T]):
    """Daemon threads: those of concurrent.futures are joined when the process ends, and a single
    one that a dead disk holds would hold the process for good."""

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
        # Whoever leaves a batch half read may end the process without closing it.
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
            del future, job  # or an idle thread would keep what it read last

    def close(self) -> None:
        """Ends the threads. They are waited for, unless they hang: a thread that wakes up while
        the interpreter goes down can crash it."""
        if self._closed:  # at the end of the process; its modules may be gone by now
            return
        atexit.unregister(self.close)
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        patience = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(patience - time.monotonic(), 0))
