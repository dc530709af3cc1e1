"""Expansion of `~` in paths from users."""

import os
from pathlib import Path


def expand(path: str | os.PathLike[str]) -> Path:
    """Replaces a leading `~` or `~user` of a path by the home directory.

    A name that only begins with `~`, such as "~1.jpg", does not change.

    Args:
      path: a path as a user wrote it.

    Raises:
      ValueError: the home directory is unknown: HOME is not set, or there is no such user.
    """
    text = os.fspath(path)
    expanded = os.path.expanduser(text) if text.startswith("~") else text
    user, slash, _ = text.partition("/")
    own = user == "~"
    known = os.path.isabs(expanded) and not (own and os.environ.get("HOME") == "")
    if not known and (own or (slash and text.startswith("~"))):
        why = "HOME is not set" if own else f"there is no user {user[1:]!r}"
        raise ValueError(
            f"{text!r}: the home directory is not known ({why}); write the path in full"
        )
    return Path(expanded if known else text)
