"""Messages between the processes of a run: who failed, who is done, what is agreed.

Process 0 keeps them (`Server`) at the coordinator's address; every process, 0 too, holds one
connection to it (`Client`). It is apart from JAX because JAX's own client answers whatever goes
wrong (a missing process, a lost connection) by aborting with a stack trace; here it is an entry.
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

GONE_SECONDS = 20
"""A machine that answers nothing for so long is gone. The operating system asks and answers, so
that a process which is only busy, or stopped in a debugger, is not taken for dead."""

TRY_SECONDS = 4.0
"""A connection to a machine that is there takes less, even if the first packets are lost."""

Heard = Callable[[str, Any], None]


def _line(key: str, value: Any) -> bytes:
    return json.dumps([key, value]).encode() + b"\n"


def keep_alive(connection: socket.socket) -> None:
    """Has the operating system end a connection whose other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    quarter = GONE_SECONDS // 4
    options = {"TCP_KEEPIDLE": quarter, "TCP_KEEPINTVL": quarter, "TCP_KEEPCNT": 3}
    for name, value in {**options, "TCP_USER_TIMEOUT": 1000 * GONE_SECONDS}.items():
        if hasattr(socket, name):  # Linux has them all
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def connect(
    host: str, port: int, seconds: float, waiting: Callable[[], None] = lambda: None
) -> socket.socket:
    """A connection to process 0, which may not be there yet.

    Args:
      waiting: called before every attempt, none of which takes longer than `TRY_SECONDS`.

    Raises:
      RunError: not within so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        waiting()
        left = end - time.monotonic()
        try:
            patience = min(max(left, 1), TRY_SECONDS)
            connection = socket.create_connection((host, port), timeout=patience)
        except OSError as error:  # refused, or a name that the network does not know yet
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
    """Process 0's side: passes every entry on to every process, in one order for all.

    It adds `here/K` when process K comes, `lost/K` when its connection ends without `done/K` or
    `failed/K`, and `broken` when one that does not fit kept them from being complete.

    Raises:
      RunError: the port is taken.
    """

    def __init__(self, port: int, count: int) -> None:
        self._count = count
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._said: list[bytes] = []  # for those who come later
        self._quiet: set[int] = set()  # processes whose end is no news
        self._here = 0
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
        except (ValueError, TypeError, OSError):  # whoever this is, it is none of us
            writer.close()
            return
        if refused := self._refused(index, count):
            writer.write(_line("refused", refused))
            writer.close()
            if self._here < self._count:  # the others would wait for one that cannot come
                self._tell("broken", refused)
            return
        writer.writelines(self._said)
        self._writers[index] = writer
        self._here += 1
        self._tell(f"here/{index}", True)
        with contextlib.suppress(OSError, ValueError):
            async for line in reader:
                key, value = json.loads(line)
                if key in (f"done/{index}", f"failed/{index}"):
                    self._quiet.add(index)
                self._tell(key, value)
        del self._writers[index]
        writer.close()
        if index not in self._quiet:
            self._tell(f"lost/{index}", True)

    def _refused(self, index: int, count: int) -> str | None:
        if count != self._count:
            which = f"process {index} says that there are {count} processes"
            return f"{which}, and process 0 that there are {self._count} (mesh.processes)"
        if self._here == self._count:
            return f"process {index} came to a run that has all of its {count} processes"
        if index in self._writers:
            return f"two processes say that they are process {index} (mesh.process_id)"
        return None

    def _tell(self, key: str, value: Any) -> None:
        line = _line(key, value)
        if self._here < self._count or key.startswith("here/"):
            self._said.append(line)
        for writer in self._writers.values():
            writer.write(line)

    def wait_until_alone(self, seconds: float) -> None:
        """Returns when the other processes have gone, or after so many seconds."""
        end = time.monotonic() + seconds
        while len(self._writers) > 1 and time.monotonic() < end:
            time.sleep(0.02)

    def close(self) -> None:
        """Stops listening, when all have left."""
        self._loop.call_soon_threadsafe(self._loop.stop)


class Client:
    """A process's side. An entry never changes: the first one under a key counts, for everyone.

    Args:
      index: of `count`, this process.
      heard: is told every entry, in the thread that reads them. `lost/0` is process 0's end.
      waiting: called while process 0 is not there yet; what it raises ends the waiting.

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
        heard: Heard,
        seconds: float,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._entries: dict[str, Any] = {}
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._heard = heard
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
        self._heard(key, value)

    def post(self, key: str, value: Any) -> None:
        """Writes an entry. If process 0 has gone nobody reads it, and `lost/0` says so."""
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(_line(key, value))

    def wait(self, keys: Iterable[str], seconds: float | None = None) -> list[Any]:
        """The values of these entries, once they are all there.

        Raises:
          TimeoutError: its `args` are the keys that were missing after so many seconds.
          ConfigError: this process was refused.
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
        """Drops entries that nobody will ask for again."""
        with self._changed:
            for key in keys:
                self._entries.pop(key, None)

    def close(self) -> None:
        """Leaves; what happens from now on is not heard of."""
        self._heard = lambda key, value: None
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
