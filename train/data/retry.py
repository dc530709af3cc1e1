"""Retries of reads that fail temporarily: a network, a server or a busy disk."""

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

from train.config import RunError

T = TypeVar("T")

_FIRST, _LONGEST = 0.1, 10.0  # seconds
_TEMPORARY = frozenset(
    getattr(errno, name)
    for name in (
        # the device, or its server
        *("EIO", "EREMOTEIO", "ESTALE", "EBUSY", "EAGAIN", "EINTR", "ETIMEDOUT", "EPIPE"),
        # the network
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTUNREACH", "EHOSTDOWN", "ENOTCONN"),
        *("ENETUNREACH", "ENETDOWN", "ENETRESET", "ENOLINK"),
        # this machine is out of file descriptors or memory; nothing is wrong with the file
        *("EMFILE", "ENFILE", "ENOMEM"),
    )
    if hasattr(errno, name)
)


def is_temporary(error: Exception) -> bool:
    """Whether an error is temporary: the same read may succeed later."""
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in _TEMPORARY


def as_os_error(text: str) -> OSError:
    """The OSError of a C++ library's message, which has the system's text but not its number.

    >>> as_os_error("pread() failed: Input/output error; reading train-00001").errno == errno.EIO
    True
    """
    for number in _TEMPORARY:
        if os.strerror(number) in text:
            return OSError(number, text)
    return OSError(text)


def read_again(read: Callable[[], T], retries: int, name: str) -> tuple[T, int]:
    """Calls `read`, and repeats it after temporary errors.

    Args:
      retries: the maximum number of repetitions, after 0.1, 0.2, 0.4, ..., at most 10 seconds each.
      name: of what is read, for the message.

    Returns:
      (result of `read`, number of repetitions).

    Raises:
      RunError: the error is temporary, but remained after all retries. It is not treated as a bad
        example: a server that is down must not remove its examples from the data.
      OSError: the error is not temporary.
    """
    tried = 0
    while True:
        try:
            return read(), tried
        except OSError as error:
            if not is_temporary(error):
                raise
            if tried == retries:
                raise RunError(
                    f"{name}: {error}, tried {tried + 1} times: its storage seems to be down "
                    "(data.retries says how often to try again)"
                ) from None
        time.sleep(min(_FIRST * 2 ** min(tried, 10), _LONGEST))
        tried += 1
