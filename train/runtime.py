"""Settings of the process: glibc's malloc, XLA's flags, and JAX's compilation cache."""

import contextlib
import ctypes
import os
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path

from resnet_jax.home import expand
from train.console import warn
from train.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


def set_malloc() -> None:
    """Configures glibc's malloc for training. Call it before any thread starts.

    On CPU devices: one heap, and freed memory stays in it. XLA allocates the temporaries of every
    step again; if they came from the system each time, clearing their pages would take a fifth of a
    step. On other devices: two heaps for all threads, instead of eight for each core. Checkpoints
    and evaluations start dozens of threads; with a heap for each, fragmentation makes resident
    memory grow although nothing leaks.

    Does nothing if $MALLOC_... or $GLIBC_TUNABLES is set, or with another C library.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        if _only_cpus():
            mallopt(_M_ARENA_MAX, 1)  # other heaps map large blocks, whatever M_MMAP_MAX is
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, -1)
        else:
            mallopt(_M_ARENA_MAX, 2)


def _only_cpus() -> bool:
    """Whether JAX will run on CPUs only, as far as can be seen without starting it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not entry_points(group="jax_plugins") and find_spec("libtpu") is None


def trim_heap() -> None:
    """Returns free heap memory to the system. Takes milliseconds."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def available_memory() -> int | None:
    """Bytes that a program can still allocate without swapping; None: unknown on this system.

    On Linux: `MemAvailable`, or the limit of a container (cgroup) if that is lower.
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
            limits.append(free + int(stat.get("inactive_file", 0)))  # cache that can be dropped
    return max(min(limits), 0) if limits else None


# By default, XLA's CPU compiler gives single convolutions to a library, which is slower than XLA's
# own code (docs/results/cpu.md). An unknown flag ends the process: newer versions do not get it.
_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_FLAG_VALUE = "-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
_KNOWN_BEFORE = (0, 13)


def set_xla_flags() -> None:
    """Adds our flag to `XLA_FLAGS`. Call it before JAX is first used: JAX reads them then."""
    flags = os.environ.get("XLA_FLAGS", "")
    major, minor, *_ = version("jaxlib").split(".")
    if _FLAG not in flags and (int(major), int(minor)) < _KNOWN_BEFORE:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}={_FLAG_VALUE}".strip()


def use_compilation_cache(folder: str | None) -> None:
    """Stores compiled programs on disk; see `RunConfig.compilation_cache`.

    If the default folder is unavailable (no home directory, a read-only disk), a warning is printed
    and every program is compiled again at each start.

    Raises:
      ConfigError: the requested folder is unavailable.
    """
    import jax

    path = None if folder == "" else _folder(folder)
    jax.config.update("jax_enable_compilation_cache", path is not None)
    if path is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Also cache small programs: together they take longer to compile than the training step. JAX
    # warns about each program that it cannot write: in a read-only folder, none is written.
    min_seconds = 0.0 if os.access(path, os.W_OK) else float("inf")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _folder(folder: str | None) -> Path | None:
    """The folder, created if necessary; None: it is the default folder, and is unavailable."""
    given = folder or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    try:
        path = expand(given or "~/.cache/resnet-jax")
        path.mkdir(parents=True, exist_ok=True)
        return path
    except (OSError, ValueError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        if folder:
            raise ConfigError(f"compilation_cache: {reason}") from None
        warn(f"compiled programs cannot be cached for the next start ({reason})")
        return None
