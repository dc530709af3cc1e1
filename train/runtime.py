"""The process around JAX: glibc's heaps, XLA's flags, and the cache of compiled programs."""

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


def trim_heap() -> None:
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


# XLA's CPU compiler hands single convolutions to a library that is slower than its own way
# (docs/results/cpu.md). A flag that a later XLA does not know would end the process.
_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_FLAG_VALUE = "-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
_KNOWN_BEFORE = (0, 13)


def set_xla_flags() -> None:
    """Adds to `XLA_FLAGS`; before JAX's first use, which reads them."""
    flags = os.environ.get("XLA_FLAGS", "")
    major, minor, *_ = version("jaxlib").split(".")
    if _FLAG not in flags and (int(major), int(minor)) < _KNOWN_BEFORE:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}={_FLAG_VALUE}".strip()


def use_compilation_cache(folder: str | None) -> None:
    """Keeps compiled programs on disk; see `RunConfig.compilation_cache`.

    Where the default folder cannot be had (no home directory, a read-only disk), a warning says so
    and everything is compiled anew.

    Raises:
      ConfigError: a folder that was asked for and cannot be had.
    """
    import jax

    path = None if folder == "" else _folder(folder)
    jax.config.update("jax_enable_compilation_cache", path is not None)
    if path is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    # The many small programs of a start add up to more than the large one. JAX warns of each
    # program that it cannot write: into a read-only folder, none is written.
    least = 0.0 if os.access(path, os.W_OK) else float("inf")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _folder(folder: str | None) -> Path | None:
    """The folder, made if need be; None if it is the default one and cannot be made."""
    given = folder or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    try:
        path = expand(given or "~/.cache/resnet-jax")
        path.mkdir(parents=True, exist_ok=True)
        return path
    except (OSError, ValueError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        if folder:
            raise ConfigError(f"compilation_cache: {reason}") from None
        warn(f"compiled programs are not kept for the next start ({reason})")
        return None
