"""Warnings, and a stdout and stderr on which a failed write does not end a run.

Text that cannot be written is dropped. `lost_output` tells whether this happened: training
continues without its progress, but for other commands the output is the result.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from train.printable import utf8

if TYPE_CHECKING:
    from rich.console import Console

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""The reader is gone for good: a pipe without a reader, a closed terminal."""

_UNWANTED = (errno.EPIPE, errno.EBADF)
"""The reader, such as `head`, has read all it needs: nothing is lost."""


class SafeStream:
    """Wraps a text stream: `write` and `flush` never raise `OSError`.

    After an error such as a full disk, the next write is tried again. If the reader is gone, the
    descriptor is redirected to /dev/null, so that writes by libraries and Python's own flush at
    exit do not fail either.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: str | None = None
        """Why output was lost, such as "No space left on device"; None: nothing is lost."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    def finish(self) -> None:
        """Flushes for the last time, and drops the rest: Python would report it at exit."""
        try:
            self._stream.flush()
        except OSError:
            self._discard()
        except ValueError:  # closed
            pass

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except UnicodeError:
            raise
        except ValueError:  # closed
            pass
        except OSError as error:
            if error.errno not in _UNWANTED:
                self.lost = error.strerror or str(error)
            if error.errno in _GONE:
                self._discard()

    def _discard(self) -> None:
        # AttributeError: the stream has no descriptor
        with contextlib.suppress(OSError, ValueError, AttributeError):
            target = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, target, inheritable=target < 3)
            os.close(null)
            self._stream.flush()


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Makes `sys.stdout` and `sys.stderr` `SafeStream`s inside the `with`.

    Closed standard descriptors are first opened on /dev/null. Otherwise the next file to be opened,
    such as a checkpoint's, would get the number 1 or 2, and libraries would print into it.
    """
    _open_standard()
    old, ours = {}, {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, SafeStream):
            old[name] = stream
            ours[name] = SafeStream(stream or _null())
            setattr(sys, name, ours[name])
    try:
        yield
    finally:
        for name, stream in ours.items():
            stream.finish()
            if getattr(sys, name) is stream:
                setattr(sys, name, old[name])


def lost_output() -> str | None:
    """Why a part of stdout was lost, inside `safe_output`; None: everything was written.

    A reader that stops early, such as `head`, counts as no loss.
    """
    sys.stdout.flush()
    return getattr(sys.stdout, "lost", None)


def _null() -> TextIO:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _open_standard() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)


def escape_unencodable() -> None:
    """Makes stdout and stderr escape characters outside their encoding, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


def warn(*texts: str) -> None:
    """Prints each text on stderr, on a line that starts with "warning: "."""
    for text in texts:
        print(f"warning: {utf8(text)}", file=sys.stderr, flush=True)


def table_console() -> "Console":
    """A console as wide as the terminal; 120 columns if stdout is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=120, highlight=False)
