"""The processes of `data.workers`: their signals, their shared memory, and how they end."""

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
"""Seconds between two checks that the parent process is alive."""


@contextlib.contextmanager
def block_signals() -> Iterator[None]:
    """Blocks SIGINT, SIGTERM and SIGHUP for all processes that are started inside the `with`.

    A terminal or a batch system sends these signals to all processes of a run. Only the training
    process handles them, and then ends its workers. Child processes inherit the calling thread's
    signal mask. A signal to this process is handled by another thread, or after the `with`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        # Started now: it would start with the first worker, and unblock SIGINT and SIGTERM there.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_with_parent(index: int, count: int) -> None:
    """Makes a worker exit soon after its parent process has ended.

    Otherwise Grain's workers survive a SIGKILL of their parent and wait for requests for ever.

    Args:
      index, count: the worker's index and the number of workers, which Grain passes.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def unlink_shared_memory(batch: Batch) -> Batch:
    """Unlinks the shared memory in which Grain passes a batch, and returns the batch.

    The arrays stay valid. Their memory is freed with them, or when this process ends for any
    reason. Otherwise Python would report the arrays that are alive at its end as leaked.
    """
    for array in batch.values():
        segment = getattr(array, "shm", None)
        if segment is not None and getattr(array, "_unlink_on_del", False):
            array._unlink_on_del = False
            segment.unlink()
    return batch


def kill_workers() -> int:
    """Kills the processes of `data.workers`, which only read, and returns their number."""
    workers = [p for p in multiprocessing.active_children() if p.name.startswith("grain-")]
    for worker in workers:
        worker.kill()
    return len(workers)
