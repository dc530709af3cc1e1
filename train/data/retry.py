"""Reads that fail for a passing reason (a network, a server, a busy disk) are tried again."""

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

from train.config import RunError

T = TypeVar("T")

_FIRST, _LONGEST = 0.1, 10.0  # seconds
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        # the device, or the server behind it
        *("EIO", "EREMOTEIO", "ESTALE", "EBUSY", "EAGAIN", "EINTR", "ETIMEDOUT", "EPIPE"),
        # the way there
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTUNREACH", "EHOSTDOWN", "ENOTCONN"),
        *("ENETUNREACH", "ENETDOWN", "ENETRESET", "ENOLINK"),
        # this machine, which says nothing about the file either
        *("EMFILE", "ENFILE", "ENOMEM"),
    )
    if hasattr(errno, name)
)


def is_passing(error: Exception) -> bool:
    """Whether the same read may work later: nothing is wrong with the file itself."""
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING


def as_os_error(text: str) -> OSError:
    """The error behind a message of C++ code, which has the system's words but not its number.

    >>> as_os_error("pread() failed: Input/output error; reading train-00001").errno == errno.EIO
    True
    """
    for number in _PASSING:
        if os.strerror(number) in text:
            return OSError(number, text)
    return OSError(text)


def read_again(read: Callable[[], T], retries: int, name: str) -> tuple[T, int]:
    """What `read` returns, and how often it had to be tried again.

    Args:
      retries: at most so often, after 0.1, 0.2, 0.4 ... seconds, never more than 10.
      name: of what is read.

    Raises:
      RunError: it fails for a passing reason to the end. Not a bad example: a server that is
        down must not cost the examples that it holds.
      OSError: it fails for another reason.
    """
    tried = 0
    while True:
        try:
            return read(), tried
        except OSError as error:
            if not is_passing(error):
                raise
            if tried == retries:
                raise RunError(
                    f"{name}: {error}, tried {tried + 1} times: its storage seems to be down "
                    "(data.retries says how often to try again)"
                ) from None
        time.sleep(min(_FIRST * 2 ** min(tried, 10), _LONGEST))
        tried += 1
