"""Compiled programs, kept on disk from one start to the next."""

import os
from pathlib import Path

from resnet_jax.home import expand
from train.config import ConfigError
from train.run.progress import warn


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
