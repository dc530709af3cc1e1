"""One of several processes: agreement, coordinated stops, and ending together after a failure.

It implements `train.distributed.processes.Processes` with entries of the coordination service.
"""

import atexit
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from train.config import ConfigError, RunError
from train.console import warn
from train.distributed.coordination import Client, Server
from train.distributed.launchers import ProcessInfo
from train.distributed.processes import CoordinatedExit, Processes
from train.distributed.tcp_proxy import TcpProxy
from train.printable import utf8

CONNECT_SECONDS = 120
"""Time limit for all processes to connect."""
QUIET_SECONDS = 5.0
"""Seconds of waiting for other processes before the first warning."""
REMIND_SECONDS = 30.0
"""Seconds between two such warnings."""
MEET_SECONDS = 600.0
"""Time limit of `gather`."""
FOLLOW_SECONDS = 5.0
"""Seconds that a process continues after another one failed: it may fail too, with more details."""
CAUSE_SECONDS = 5.0
"""Seconds to wait after an error of JAX, to learn whether another process caused it by ending."""
END_SECONDS = 10.0
"""Time limit for a failed process to end, whatever it waits for."""
AGAIN = "The same command resumes from the newest checkpoint, or starts anew if there is none yet"


class MultiProcess(Processes):
    """One of several processes. Call `join` first, and `finish` at the end.

    How a stop is agreed: a process that received a signal puts `stop`. Each process that receives
    `stop` puts `next/K`, the step that it can still stop before, and then waits in `should_stop`
    for the entries of all processes. All stop before the latest of these steps.
    """

    def __init__(self, info: ProcessInfo, stopped: Callable[[], str | None] = lambda: None) -> None:
        self._stopped, self._remind = stopped, time.monotonic() + QUIET_SECONDS
        self.index, self.count, self._info = info.index, info.count, info
        self._server = Server(info.port, info.count) if self.is_writer else None
        self._stop_lock = threading.Lock()
        self._stop_sent = self._stop_received = self._next_sent = self._ending = False
        self._next: int | None = None  # the step that this process can still stop before
        self._gathers = 0
        self._failed = threading.Event()  # this process failed by itself
        self._may_follow = threading.Event()  # it failed, maybe because another process ended
        self._client = Client(
            "127.0.0.1" if self._server else info.host,
            info.port,
            index=info.index,
            count=info.count,
            on_entry=self._on_entry,
            seconds=CONNECT_SECONDS,
            waiting=lambda: self._waiting("process 0"),
        )

    def _waiting(self, who: str) -> None:
        """Warns from time to time about the missing processes. Raises `RunError` after a signal."""
        missing = f"{who} of {self.count} at {self._info.host}:{self._info.port}"
        if signal := self._stopped():
            raise RunError(f"stopped by {signal} while waiting for {missing}")
        if time.monotonic() > self._remind:
            self._remind = time.monotonic() + REMIND_SECONDS
            warn(f"waiting for {missing}")

    def _wait_for_all(self) -> None:
        end = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                self._client.wait(self._keys("joined"), 0.2)
            except TimeoutError as error:
                who = _named(error.args)
                if time.monotonic() > end:
                    raise RunError(
                        f"{who} of {self.count} did not connect within {CONNECT_SECONDS} s"
                    ) from None
                self._waiting(who)
            else:
                return

    def join(self) -> None:
        """Waits for all processes, and starts JAX's distributed runtime."""
        self._wait_for_all()
        port = self.broadcast(_free_port() if self._server else None)
        address = f"127.0.0.1:{port}" if self._server else TcpProxy(self._info.host, port).address
        import jax

        # JAX's service would replace our handler of SIGTERM, and it handles no other signal.
        jax.config.update("jax_enable_preemption_service", False)
        # The connection ends on this machine, so no HTTP proxy must be used.
        os.environ["no_grpc_proxy"] = "127.0.0.1"  # noqa: SIM112 (gRPC reads it so)
        jax.config.update("jax_check_proxy_envs", False)
        jax.distributed.initialize(
            address,
            self.count,
            self.index,
            self._info.local_devices,
            cluster_detection_method="deactivate",
            coordinator_bind_address=f"[::]:{port}" if self._server else None,
            initialization_timeout=CONNECT_SECONDS,
            shutdown_timeout_seconds=30,
        )

    def _keys(self, what: object) -> list[str]:
        return [f"{what}/{index}" for index in range(self.count)]

    def gather(self, value: Any) -> list[Any]:
        self._gathers += 1
        keys = self._keys(f"gather {self._gathers}")
        self._client.put(keys[self.index], value)
        try:
            values = self._client.wait(keys, MEET_SECONDS)
        except TimeoutError as error:
            raise RunError(
                f"{_named(error.args)} did not reach the same point as the others within "
                f"{MEET_SECONDS:g} s"
            ) from None
        self._client.forget(keys)
        return values

    def should_stop(self, step: int, signal: str | None) -> str | None:
        with self._stop_lock:
            if signal and not self._stop_sent:
                self._stop_sent = True
                self._client.put("stop", f"{signal} to process {self.index}")
            if not self._stop_received:
                self._next = step + 1
                return None
            self._send_next(step)
        # This wait is short: no training step of another process is waited for, because each
        # process puts `next` in the thread that receives `stop`, not in the one that trains.
        last = max(self._client.wait(self._keys("next")))
        (reason,) = self._client.wait(["stop"])
        return reason if step >= last else None

    def _send_next(self, step: int) -> None:
        if not self._next_sent:
            self._next_sent = True
            self._client.put(f"next/{self.index}", step)

    def _on_entry(self, key: str, value: Any) -> None:
        """Handles an entry of the coordination service, in the thread that reads them."""
        what, _, who = key.partition("/")
        if key == "stop":
            with self._stop_lock:
                self._stop_received = True
                if self._next is not None:  # None: before the first step
                    self._send_next(self._next)
        elif what == "failed" and who != str(self.index):
            self._end_with_peer(
                f"process {who} failed: {value['reason']}", value["code"], FOLLOW_SECONDS
            )
        elif what == "incomplete":
            self._end_with_peer(value, 2, 0.0)
        elif what == "lost":
            why = f"it was killed, or its machine or network failed. {AGAIN}"
            self._end_with_peer(f"process {who} is gone: {why}", 1, 0.0)

    def _end_with_peer(self, *why: Any) -> None:
        if not self._ending:  # later entries are consequences of the first one
            self._ending = True
            self._start(self._follow, *why)

    @staticmethod
    def _start(target: Any, *args: Any) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()

    def _follow(self, reason: str, code: int, seconds: float) -> None:
        """Ends this process after another one has ended, unless it fails by itself meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._may_follow.is_set():
            if self._failed.wait(0.05):
                return
        if not self._failed.is_set():
            self._print_and_exit(reason, code)

    def _print_and_exit(self, reason: str, code: int) -> None:
        print(f"error: {utf8(reason)}", file=sys.stderr)
        if self._server:  # it still has to send the entries to the others
            self._server.wait_until_alone(END_SECONDS)
        _exit(code)

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        try:
            yield
        except CoordinatedExit:
            raise
        except BaseException as error:
            mine = f"process {self.index}: "
            self._fail(error, str(error).removeprefix(mine))
            if not isinstance(error, ConfigError | RunError) or str(error).startswith(mine):
                raise
            kind = ConfigError if isinstance(error, ConfigError) else RunError
            raise kind(f"{mine}{error}") from error

    def _fail(self, error: BaseException, reason: str) -> None:
        if self._failed.is_set():
            return
        if _by_jax(error):
            self._may_follow.set()
            time.sleep(CAUSE_SECONDS)  # `_follow` ends this process here if another one caused it
        self._failed.set()
        bad_input = isinstance(error, ConfigError)
        if not isinstance(error, ConfigError | RunError):
            reason = f"{type(error).__name__}: {reason[:300]}"
        code = 2 if bad_input else 1
        # From here on other processes end, and waiting for them would take for ever. So this
        # process prints the error and exits without a shutdown of JAX.
        atexit.register(_exit, code)
        self._client.put(f"failed/{self.index}", {"code": code, "reason": reason})
        with contextlib.suppress(TimeoutError, ConfigError):
            self._client.wait([f"failed/{self.index}"], 2)
        self._start(self._end, reason, code)
        if self._server:
            self._server.wait_until_alone(END_SECONDS)

    def _end(self, reason: str, code: int) -> None:
        time.sleep(2 * END_SECONDS)
        self._print_and_exit(f"process {self.index}: {reason}", code)

    def finish(self) -> None:
        """Waits without limit until all processes are done, and shuts JAX's runtime down."""
        self.leave()
        import jax

        jax.distributed.shutdown()

    def leave(self) -> None:
        """Waits until all processes are done, and disconnects from the coordination service."""
        self._client.put(f"done/{self.index}", True)
        self._client.wait(self._keys("done"))
        self._client.close()
        if self._server:
            self._server.wait_until_alone(END_SECONDS)
            self._server.close()


def _by_jax(error: BaseException | None) -> bool:
    """Whether JAX's runtime caused an error, for example because another process has ended."""
    import jax

    while error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _named(keys: tuple[str, ...]) -> str:
    """The processes of keys, for a message: `joined/1`, `joined/2` -> "processes 1, 2"."""
    indices = [key.partition("/")[2] for key in keys]
    more = f" and {len(indices) - 10} more" if len(indices) > 10 else ""
    return f"process{'es' if len(indices) > 1 else ''} {', '.join(indices[:10])}{more}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _exit(code: int) -> None:
    """Ends the process at once, without destructors, which could wait for other processes."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
