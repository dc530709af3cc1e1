"""`~` in a path that a person wrote."""

import os
from pathlib import Path


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with a leading `~` or `~user` replaced by the home directory.

    A name that only begins with `~`, such as "~1.jpg", stays as it is.

    Raises:
      ValueError: `~` in front, where no home directory is known: HOME is not set, and the user
        has no entry in the list of users.
    """
    text = os.fspath(path)
    expanded = os.path.expanduser(text) if text.startswith("~") else text
    own = text.partition("/")[0] == "~"
    known = os.path.isabs(expanded) and not (own and os.environ.get("HOME") == "")
    if own and not known:
        raise ValueError(
            f"{text!r}: the home directory is not known (HOME is not set); write the path in full"
        )
    return Path(expanded if known else text)
