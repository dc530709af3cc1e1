"""Paths that a person typed: made absolute once, and refused where no checkpoint could be kept."""

from pathlib import Path

from resnet_jax import home
from train.errors import ConfigError

# TensorStore takes a backslash for a separator; Orbax takes these for buckets of cloud storage.
_BUCKETS = ("gs", "s3", "az", "hf")


def expand(path: str | Path, what: str = "") -> Path:
    """A path without `~` in front; links and `..` stay.

    Args:
      what: names the option in the message.

    Raises:
      ConfigError: the home directory is not known; see `resnet_jax.home.expand`.
    """
    try:
        return home.expand(path)
    except ValueError as error:
        raise ConfigError(f"{what} {error}".strip()) from None


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
