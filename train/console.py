"""Standard output and error that never end a run: what cannot be written is dropped, and counted.

Progress of a training may be lost. Where the output is the product, `lost_output` says so.
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
"""Nobody will read again: a pipe without a reader, a terminal that was closed."""

_UNWANTED = (errno.EPIPE, errno.EBADF)
"""The reader, such as `head`, had enough: nothing is lost."""


class SafeStream:
    """A text stream whose `write` and `flush` never raise `OSError`; otherwise the one inside.

    A full disk may have room again, so the next write is tried. A reader that is gone does not come
    back: the descriptor is pointed at /dev/null, for libraries that write to it too, and for what
    Python would flush at its end.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: str | None = None
        """Why output was lost, such as "No space left on device"; None: nothing was."""

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
        """Flushes for the last time: what is left is dropped, or Python's end would report it."""
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
        with contextlib.suppress(OSError, ValueError, AttributeError):  # or it has no descriptor
            target = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, target, inheritable=target < 3)
            os.close(null)
            self._stream.flush()


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Makes `sys.stdout` and `sys.stderr` `SafeStream`s inside the `with`.

    Standard descriptors that are closed are opened on /dev/null first: the next file to be opened,
    a checkpoint's say, would get their number and whatever a library prints.
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
    """Why a part of stdout was lost, inside `safe_output`; None: all was written.

    A reader that left, such as `head`, loses nothing.
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


def accept_every_character() -> None:
    """Stdout and stderr escape what their encoding lacks, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


def warn(text: str) -> None:
    """A line on stderr, for what must be seen though nobody asked."""
    print(f"warning: {utf8(text)}", file=sys.stderr, flush=True)


def table_console() -> "Console":
    """As wide as the terminal, and wide enough for a whole row where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=120, highlight=False)
