"""A key-value service between the processes of a run: agreement, and reports of failures.

Process 0 runs the `Server` at the coordinator's address. Every process, including process 0, has
one connection to it (`Client`). JAX's own service is not used for this, because its client aborts
the process with a stack trace if another process is missing or a connection is lost. Here such an
event is an entry that the run can handle.

Keys: `joined/K`, `done/K`, `failed/K` and `lost/K` for process K; `refused` and `incomplete` for
errors at the start; all others are free.
"""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from train.config import ConfigError, RunError

KEEPALIVE_SECONDS = 20
"""Seconds without an answer after which a machine counts as lost. The operating systems send and
answer keep-alive packets, so a process that is busy, or stopped in a debugger, is not lost."""

ATTEMPT_SECONDS = 4.0
"""Time limit of one attempt to connect. A reachable machine needs less, even with lost packets."""

OnEntry = Callable[[str, Any], None]
"""Receives (key, value) of every new entry."""


def _line(key: str, value: Any) -> bytes:
    return json.dumps([key, value]).encode() + b"\n"


def keep_alive(connection: socket.socket) -> None:
    """Makes the operating system close a connection whose other machine is lost."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    quarter = KEEPALIVE_SECONDS // 4
    options = {"TCP_KEEPIDLE": quarter, "TCP_KEEPINTVL": quarter, "TCP_KEEPCNT": 3}
    for name, value in {**options, "TCP_USER_TIMEOUT": 1000 * KEEPALIVE_SECONDS}.items():
        if hasattr(socket, name):  # Linux has all of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def connect(
    host: str, port: int, seconds: float, waiting: Callable[[], None] = lambda: None
) -> socket.socket:
    """Connects to process 0, which may start later than this process.

    Args:
      seconds: time limit.
      waiting: called before every attempt; an attempt takes at most `ATTEMPT_SECONDS`.

    Raises:
      RunError: no connection within `seconds`.
    """
    end = time.monotonic() + seconds
    while True:
        waiting()
        left = end - time.monotonic()
        try:
            timeout = min(max(left, 1), ATTEMPT_SECONDS)
            connection = socket.create_connection((host, port), timeout=timeout)
        except OSError as error:  # refused, or an unknown host name
            if left < 0.5:
                raise RunError(
                    f"process 0 cannot be reached at {host}:{port} within {seconds:g} s "
                    f"({error.strerror or error})"
                ) from None
            time.sleep(0.5)
        else:
            connection.settimeout(None)
            keep_alive(connection)
            return connection


class Server:
    """The server in process 0. It sends every entry to every process, in the same order.

    It adds `joined/K` when process K connects, `lost/K` when its connection ends without `done/K`
    or `failed/K`, and `incomplete` when it refused a process before all processes had connected.

    Raises:
      RunError: the port is in use.
    """

    def __init__(self, port: int, count: int) -> None:
        self._count = count
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._history: list[bytes] = []  # for processes that connect later
        self._finished: set[int] = set()  # processes whose end was announced
        self._joined = 0
        try:
            if socket.has_dualstack_ipv6():
                family = socket.AF_INET6
                server = socket.create_server(("", port), family=family, dualstack_ipv6=True)
            else:
                server = socket.create_server(("", port))
        except OSError as error:
            raise RunError(f"process 0 cannot listen at port {port}: {error.strerror}") from None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, args=(server,), daemon=True).start()

    def _run(self, server: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        listening = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=server))
        self._loop.run_forever()
        listening.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep_alive(writer.get_extra_info("socket"))
        try:
            index, count = json.loads(await reader.readline())
        except (ValueError, TypeError, OSError):  # not one of our processes
            writer.close()
            return
        if refused := self._refused(index, count):
            writer.write(_line("refused", refused))
            writer.close()
            if self._joined < self._count:  # the others would wait for a process that is missing
                self._send_to_all("incomplete", refused)
            return
        writer.writelines(self._history)
        self._writers[index] = writer
        self._joined += 1
        self._send_to_all(f"joined/{index}", True)
        with contextlib.suppress(OSError, ValueError):
            async for line in reader:
                key, value = json.loads(line)
                if key in (f"done/{index}", f"failed/{index}"):
                    self._finished.add(index)
                self._send_to_all(key, value)
        del self._writers[index]
        writer.close()
        if index not in self._finished:
            self._send_to_all(f"lost/{index}", True)

    def _refused(self, index: int, count: int) -> str | None:
        if count != self._count:
            which = f"process {index} expects {count} processes"
            return f"{which}, but process 0 expects {self._count} (mesh.processes)"
        if self._joined == self._count:
            return f"process {index} connected to a run that has all of its {count} processes"
        if index in self._writers:
            return f"two processes have the index {index} (mesh.process_id)"
        return None

    def _send_to_all(self, key: str, value: Any) -> None:
        line = _line(key, value)
        if self._joined < self._count or key.startswith("joined/"):
            self._history.append(line)
        for writer in self._writers.values():
            writer.write(line)

    def wait_until_alone(self, seconds: float) -> None:
        """Returns when the other processes have disconnected, or after `seconds`."""
        end = time.monotonic() + seconds
        while len(self._writers) > 1 and time.monotonic() < end:
            time.sleep(0.02)

    def close(self) -> None:
        """Stops the server, after all processes have disconnected."""
        self._loop.call_soon_threadsafe(self._loop.stop)


class Client:
    """The connection of a process to the server.

    An entry never changes: all processes use the first value of a key.

    Args:
      host, port: address of process 0.
      index, count: index of this process, and number of processes.
      on_entry: receives every new entry, in the reading thread. `lost/0` means that process 0
        has ended.
      seconds: time limit for the connection.
      waiting: called while process 0 is unavailable; an exception that it raises ends the wait.

    Raises:
      RunError: process 0 cannot be reached within `seconds`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        index: int,
        count: int,
        on_entry: OnEntry,
        seconds: float,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._entries: dict[str, Any] = {}
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._on_entry = on_entry
        self._socket = connect(host, port, seconds, waiting)
        self._socket.sendall(json.dumps([index, count]).encode() + b"\n")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with self._socket, contextlib.suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                self._add(*json.loads(line))
        if "refused" not in self._entries:
            self._add("lost/0", True)

    def _add(self, key: str, value: Any) -> None:
        with self._changed:
            if key in self._entries:
                return
            self._entries[key] = value
            self._changed.notify_all()
        self._on_entry(key, value)

    def put(self, key: str, value: Any) -> None:
        """Sends an entry to all processes. If process 0 has ended it is lost; see `lost/0`."""
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(_line(key, value))

    def wait(self, keys: Iterable[str], seconds: float | None = None) -> list[Any]:
        """Waits for entries and returns their values.

        Args:
          seconds: time limit; None: no limit.

        Raises:
          TimeoutError: some entries are missing after `seconds`; its `args` are their keys.
          ConfigError: the server refused this process.
        """
        keys = list(keys)

        def complete() -> bool:
            return "refused" in self._entries or all(key in self._entries for key in keys)

        with self._changed:
            self._changed.wait_for(complete, seconds)
            if refused := self._entries.get("refused"):
                raise ConfigError(refused)
            missing = [key for key in keys if key not in self._entries]
            if missing:
                raise TimeoutError(*missing)
            return [self._entries[key] for key in keys]

    def forget(self, keys: Iterable[str]) -> None:
        """Deletes entries that are not needed any more."""
        with self._changed:
            for key in keys:
                self._entries.pop(key, None)

    def close(self) -> None:
        """Disconnects. `on_entry` is not called any more."""
        self._on_entry = lambda key, value: None
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
