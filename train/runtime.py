"""What glibc keeps of the memory that was freed."""

import contextlib
import ctypes
import os
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


def set_malloc() -> None:
    """Sets glibc's heaps for training: call it before any thread starts.

    Where CPUs are the devices, one heap that keeps what was freed: XLA asks for each step's
    temporaries anew, and the system, asked, clears each page of them at its first touch, which
    takes a fifth of a step. Elsewhere two heaps for all threads, not eight for each core:
    checkpoints and evaluations run through dozens of threads, each of which leaves its own heap in
    pieces, and resident memory creeps up although nothing is leaked.

    What a user set by $MALLOC_... or $GLIBC_TUNABLES, and other C libraries, are left as they are.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        if _only_cpus():
            mallopt(_M_ARENA_MAX, 1)  # in any other, large blocks are mapped, limit or not
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, -1)
        else:
            mallopt(_M_ARENA_MAX, 2)


def _only_cpus() -> bool:
    """Whether JAX will run on CPUs, as far as can be told without starting it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not entry_points(group="jax_plugins") and find_spec("libtpu") is None


def give_back() -> None:
    """Returns what is free to the system; milliseconds."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def available_memory() -> int | None:
    """Bytes that a program may still take without swapping; None where the system does not say.

    Linux: `MemAvailable`, or less where a container (cgroup) allows less.
    """
    limits = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        limits.append(int(line.split()[1]) * 1024)
    for folder, most, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            stat = dict(
                s.split() for s in (Path(folder) / "memory.stat").read_text("utf-8").splitlines()
            )
            free = int((Path(folder) / most).read_text("utf-8")) - int(
                (Path(folder) / used).read_text("utf-8")
            )
            limits.append(free + int(stat.get("inactive_file", 0)))  # the cache gives way
    return max(min(limits), 0) if limits else None
