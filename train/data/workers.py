"""The processes of `data.workers`: what signals do to them, and how they end."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from typing import Any, TypeVar

Batch = TypeVar("Batch", bound=Mapping[str, Any])

_POLL = 1.0
"""Seconds between two looks at whether the parent is still there."""


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Processes that are started inside the `with` never receive SIGINT, SIGTERM or SIGHUP.

    A terminal and a batch system send those to all processes of a run. Only the one that trains
    answers, and then ends the others. Children inherit the calling thread's mask; a signal to this
    process itself goes to another thread, or comes when the `with` ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()  # its start, the first worker's else, unblocks the others
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(index: int, count: int) -> None:
    """In a worker (number `index` of `count`): it ends soon after the process that started it.

    Grain's workers would otherwise outlive a SIGKILL of their parent, waiting to be asked.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def without_segments(batch: Batch) -> Batch:
    """The batch, after the names of the shared memory that Grain put it in were removed.

    The arrays stay valid; their memory goes with them, or with this process, however that ends.
    Arrays that are alive at the end of Python would otherwise be reported as leaked.
    """
    for array in batch.values():
        segment = getattr(array, "shm", None)
        if segment is not None and getattr(array, "_unlink_on_del", False):
            array._unlink_on_del = False
            segment.unlink()
    return batch


def kill_workers() -> int:
    """Ends the processes of `data.workers` at once (they only read); says how many there were."""
    workers = [p for p in multiprocessing.active_children() if p.name.startswith("grain-")]
    for worker in workers:
        worker.kill()
    return len(workers)
