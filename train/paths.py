"""Paths given by the user: `~` is expanded, and a workdir that Orbax cannot use is an error."""

from pathlib import Path

from resnet_jax import home
from train.errors import ConfigError

# TensorStore reads a backslash as a separator; Orbax reads these names as cloud storage buckets.
_BUCKETS = ("gs", "s3", "az", "hf")


def expand(path: str | Path, what: str = "") -> Path:
    """A path with a leading `~` expanded. Links and `..` are not resolved.

    Args:
      what: the option's name, for the message.

    Raises:
      ConfigError: the home directory is unknown; see `resnet_jax.home.expand`.
    """
    try:
        return home.expand(path)
    except ValueError as error:
        raise ConfigError(f"{what} {error}".strip()) from None


def resolve_workdir(path: str | Path) -> Path:
    """The directory of a run, absolute and without links, `..` and `~`.

    Raises:
      ConfigError: Orbax cannot store checkpoints there; the message names the part of the path
        that is the reason.
    """
    resolved = expand(path, "workdir").resolve()
    if problem := _problem(resolved):
        raise ConfigError(
            f"workdir {str(path)!r}: checkpoints cannot be stored there: {problem}. Rename that "
            "folder, or choose another --workdir"
        )
    return resolved


def _problem(path: Path) -> str | None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"the path {str(path)!r} is not UTF-8"
    if "\\" in str(path):
        return f"{str(path)!r} contains a backslash"
    names = path.parts[1:]
    if names and names[0] in _BUCKETS:
        return f"Orbax reads '/{names[0]}' as cloud storage"
    bucket = next((name for name in names if name.removesuffix(":") in _BUCKETS), "")
    return f"Orbax reads {bucket!r} as cloud storage" if bucket.endswith(":") else None
