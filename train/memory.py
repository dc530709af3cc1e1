"""What glibc keeps of the memory that was freed."""

import contextlib
import ctypes
import os

_M_ARENA_MAX = -8  # malloc.h


def limit_arenas() -> None:
    """Two heaps for all threads, not eight for each core: call it before any thread starts.

    Checkpoints and evaluations run through dozens of threads, each of which leaves its own heap
    in pieces, and resident memory creeps up although nothing is leaked. $MALLOC_ARENA_MAX, and
    other C libraries, are left as they are.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def give_back() -> None:
    """Returns what is free to the system; milliseconds."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
