"""The lock of a run's directory: one training at a time."""

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from train.config import ConfigError
from train.console import warn

_held: set[Path] = set()  # by this process, to which its own locks are no obstacle


class RunLock:
    """Keeps a second process from training in a directory; a `with` gives it back.

    A POSIX record lock on `workdir/lock`: the system drops it with the process, however that ends,
    and no child inherits it. It holds between machines too where the file system has such locks
    (NFS 4; NFS 3 with its lock daemon; Lustre mounted with `flock`); where it has none, a warning
    says so. The file's content, which process has the lock, is for people.
    """

    def __init__(self, workdir: Path) -> None:
        self._workdir, self.path = workdir, workdir / "lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> bool:
        """Locks the directory, if it is there and not locked by this object yet.

        Returns:
          Whether it was locked just now.

        Raises:
          ConfigError: another process, or another run in this process, trains there.
        """
        if self._file or not self._workdir.is_dir():
            return False
        if self._workdir in _held:
            raise ConfigError(f"another run in this process trains in {self._workdir}")
        try:
            while not self._file:
                self._file = self._lock()
        except OSError as error:
            if os.access(self._workdir, os.W_OK):  # else nothing can be written there anyway
                warn(
                    f"{self.path} cannot be locked ({error.strerror}): two processes that train "
                    "in this directory would damage each other's files"
                )
            return False
        _held.add(self._workdir)
        return True

    def _lock(self) -> IO[str] | None:
        """None: the file was removed in between, by the process that had the lock."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        file = os.fdopen(descriptor, "r+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_mine(file):
                file.close()
                return None
            with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
                content = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
                file.truncate()
                os.write(descriptor, json.dumps(content).encode() + b"\n")
            return file
        except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES
            who = _describe(file)
            file.close()
            raise ConfigError(
                f"another process{who} trains in {self._workdir}; wait for it, stop it, or choose "
                "another --workdir"
            ) from None
        except OSError:
            file.close()
            raise

    def _is_mine(self, file: IO[str]) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        return False

    def release(self) -> None:
        """Removes the file, then drops the lock."""
        if self._file:
            with contextlib.suppress(OSError):
                self.path.unlink()
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
            _held.discard(self._workdir)


def who_trains(workdir: Path) -> str | None:
    """The process that holds the lock of a directory, for a message; None: nobody trains there.

    The lock is tried, and given back at once. A file system without locks shows nobody.
    """
    path = workdir / "lock"
    # Closing the file would drop this process's own lock.
    if workdir.resolve() in {held.resolve() for held in _held}:
        return " (this process)"
    try:
        with path.open(encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                return _describe(file)
    except OSError:
        pass
    return None


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def _describe(file: IO[str]) -> str:
    """ " (pid 123 on HOST, since ...)"; "" if the file does not say it (yet)."""
    try:
        content: dict[str, Any] = json.loads(file.read())
        return f" (pid {content['pid']} on {content['host']}, since {content['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
