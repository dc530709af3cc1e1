"""Paths that a person typed: made absolute once, and refused where no checkpoint could be kept."""

import os
from pathlib import Path

from train.config import ConfigError

# TensorStore takes a backslash for a separator; Orbax takes these for buckets of cloud storage.
_BUCKETS = ("gs", "s3", "az", "hf")


def expand(path: str | Path, what: str) -> Path:
    """A path without `~`, independent of the working directory; links and `..` stay.

    Args:
      what: names the option in the message.

    Raises:
      ConfigError: nobody has the home directory that `~` or `~NAME` stands for.
    """
    typed = str(path)
    expanded = os.path.expanduser(typed)
    if typed.startswith("~") and expanded == typed:
        raise ConfigError(
            f"{what} {typed!r}: no home directory is known for {typed.partition('/')[0]!r}; "
            "write the full path"
        )
    return Path(expanded).absolute()


def resolve_workdir(path: str | Path) -> Path:
    """The directory of a run, absolute and without links, `..` and `~`.

    Raises:
      ConfigError: checkpoints could not be written or read there; the message names the part of
        the path that is to blame.
    """
    resolved = expand(path, "workdir").resolve()
    if problem := _problem(resolved):
        raise ConfigError(
            f"workdir {str(path)!r}: checkpoints cannot be kept there: {problem}. Rename that "
            "folder, or choose another --workdir"
        )
    return resolved


def _problem(path: Path) -> str | None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"the path {str(path)!r} is not UTF-8"
    if "\\" in str(path):
        return f"{str(path)!r} has a backslash in it"
    names = path.parts[1:]
    if names and names[0] in _BUCKETS:
        return f"'/{names[0]}' stands for cloud storage in Orbax"
    bucket = next((name for name in names if name.removesuffix(":") in _BUCKETS), "")
    return f"{bucket!r} stands for cloud storage in Orbax" if bucket.endswith(":") else None
