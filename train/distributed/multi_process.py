"""One of several processes: what `train.distributed.processes.Processes` is for it."""

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
"""In which all processes have to be there."""
QUIET_SECONDS = 5.0
"""For which a process waits for the others without a word."""
REMIND_SECONDS = 30.0
"""After which it says again for whom it waits."""
MEET_SECONDS = 600.0
"""In which all processes have to come to where they agree on something."""
FOLLOW_SECONDS = 5.0
"""A process whose peer failed may be failing too, and say more of it than that: it has so long."""
CAUSE_SECONDS = 5.0
"""An error of JAX's may be another process's end, which is heard of in so long if it is."""
END_SECONDS = 10.0
"""A process that failed ends in so long, whatever it still waits for."""
AGAIN = "The same command resumes from the newest checkpoint, or starts anew if there is none yet"


class MultiProcess(Processes):
    """A process that has a place among others; `join` before anything else, `finish` at the end."""

    def __init__(
        self, place: ProcessInfo, stopped: Callable[[], str | None] = lambda: None
    ) -> None:
        self._stopped, self._remind = stopped, time.monotonic() + QUIET_SECONDS
        self.index, self.count, self._process = place.index, place.count, place
        self._server = Server(place.port, place.count) if self.is_writer else None
        self._stopping = threading.Lock()
        self._asked = self._held = self._told = self._over = False
        self._next: int | None = None  # the step that this process can still stop before
        self._meetings = 0
        self._failed = threading.Event()  # by an error of its own
        self._cut = threading.Event()  # by something that may be another one's end
        self._client = Client(
            "127.0.0.1" if self._server else place.host,
            place.port,
            index=place.index,
            count=place.count,
            heard=self._heard,
            seconds=CONNECT_SECONDS,
            waiting=lambda: self._waiting("process 0"),
        )

    def _waiting(self, who: str) -> None:
        """Says for whom this process waits, now and then, and ends it by `RunError` on a signal."""
        missing = f"{who} of {self.count} at {self._process.host}:{self._process.port}"
        if signal := self._stopped():
            raise RunError(f"stopped by {signal} while waiting for {missing}")
        if time.monotonic() > self._remind:
            self._remind = time.monotonic() + REMIND_SECONDS
            warn(f"waiting for {missing}")

    def _meet(self) -> None:
        end = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                self._client.wait(self._keys("here"), 0.2)
            except TimeoutError as error:
                who = _named(error.args)
                if time.monotonic() > end:
                    raise RunError(
                        f"{who} of {self.count} did not come within {CONNECT_SECONDS} s"
                    ) from None
                self._waiting(who)
            else:
                return

    def join(self) -> None:
        """Meets the others, and starts JAX's distributed runtime among them."""
        self._meet()
        port = self.broadcast(_free_port() if self._server else None)
        address = (
            f"127.0.0.1:{port}" if self._server else TcpProxy(self._process.host, port).address
        )
        import jax

        # It would take SIGTERM away from the handler that is there, and knows no other signal.
        jax.config.update("jax_enable_preemption_service", False)
        # A proxy has no part in a line that ends on this machine.
        os.environ["no_grpc_proxy"] = "127.0.0.1"  # noqa: SIM112 (gRPC reads it so)
        jax.config.update("jax_check_proxy_envs", False)
        jax.distributed.initialize(
            address,
            self.count,
            self.index,
            self._process.local_devices,
            cluster_detection_method="deactivate",
            coordinator_bind_address=f"[::]:{port}" if self._server else None,
            initialization_timeout=CONNECT_SECONDS,
            shutdown_timeout_seconds=30,
        )

    def _keys(self, what: object) -> list[str]:
        return [f"{what}/{index}" for index in range(self.count)]

    def gather(self, value: Any) -> list[Any]:
        self._meetings += 1
        keys = self._keys(f"meeting {self._meetings}")
        self._client.post(keys[self.index], value)
        try:
            values = self._client.wait(keys, MEET_SECONDS)
        except TimeoutError as error:
            raise RunError(
                f"{_named(error.args)} did not come to where the others are, within "
                f"{MEET_SECONDS:g} s"
            ) from None
        self._client.forget(keys)
        return values

    def should_stop(self, step: int, signal: str | None) -> str | None:
        with self._stopping:
            if signal and not self._asked:
                self._asked = True
                self._client.post("stop", f"{signal} to process {self.index}")
            if not self._held:
                self._next = step + 1
                return None
            self._tell_next(step)
        # Nobody waits here for a step of another's: what each of them may still do was said by
        # the thread that heard of the stop, not by the one that trains.
        last = max(self._client.wait(self._keys("next")))
        (reason,) = self._client.wait(["stop"])
        return reason if step >= last else None

    def _tell_next(self, step: int) -> None:
        if not self._told:
            self._told = True
            self._client.post(f"next/{self.index}", step)

    def _heard(self, key: str, value: Any) -> None:
        """Every entry of the board, in the thread that reads them."""
        what, _, who = key.partition("/")
        if key == "stop":
            with self._stopping:
                self._held = True
                if self._next is not None:  # else this process has not come to its first step
                    self._tell_next(self._next)
        elif what == "failed" and who != str(self.index):
            self._ends(f"process {who} failed: {value['reason']}", value["code"], FOLLOW_SECONDS)
        elif what == "broken":
            self._ends(value, 2, 0.0)
        elif what == "lost":
            why = f"it was killed, or its machine or network failed. {AGAIN}"
            self._ends(f"process {who} is gone: {why}", 1, 0.0)

    def _ends(self, *why: Any) -> None:
        if not self._over:  # what comes later is what the first one led to
            self._over = True
            self._start(self._follow, *why)

    @staticmethod
    def _start(target: Any, *args: Any) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()

    def _follow(self, reason: str, code: int, seconds: float) -> None:
        """Ends this process because another one has ended, unless it fails of itself."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._cut.is_set():
            if self._failed.wait(0.05):
                return
        if not self._failed.is_set():
            self._say_and_exit(reason, code)

    def _say_and_exit(self, reason: str, code: int) -> None:
        print(f"error: {utf8(reason)}", file=sys.stderr)
        if self._server:  # the others hear of it from here
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
            self._cut.set()
            time.sleep(CAUSE_SECONDS)  # if another one's end is behind it, this is the last line
        self._failed.set()
        bad_input = isinstance(error, ConfigError)
        if not isinstance(error, ConfigError | RunError):
            reason = f"{type(error).__name__}: {reason[:300]}"
        code = 2 if bad_input else 1
        # From here on others end, and whatever waits for them would wait for ever: this process
        # prints what failed, but does not take its leave of JAX.
        atexit.register(_exit, code)
        self._client.post(f"failed/{self.index}", {"code": code, "reason": reason})
        with contextlib.suppress(TimeoutError, ConfigError):
            self._client.wait([f"failed/{self.index}"], 2)
        self._start(self._end, reason, code)
        if self._server:
            self._server.wait_until_alone(END_SECONDS)

    def _end(self, reason: str, code: int) -> None:
        time.sleep(2 * END_SECONDS)
        self._say_and_exit(f"process {self.index}: {reason}", code)

    def finish(self) -> None:
        """Waits until all processes are done, however long one takes, and leaves JAX's runtime."""
        self.leave()
        import jax

        jax.distributed.shutdown()

    def leave(self) -> None:
        """Leaves the board with all others."""
        self._client.post(f"done/{self.index}", True)
        self._client.wait(self._keys("done"))
        self._client.close()
        if self._server:
            self._server.wait_until_alone(END_SECONDS)
            self._server.close()


def _by_jax(error: BaseException | None) -> bool:
    """Whether an error of JAX's runtime is behind it: a collective that another one left, say."""
    import jax

    while error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _named(keys: tuple[str, ...]) -> str:
    """`here/1`, `here/2` as "processes 1, 2"."""
    indices = [key.partition("/")[2] for key in keys]
    more = f" and {len(indices) - 10} more" if len(indices) > 10 else ""
    return f"process{'es' if len(indices) > 1 else ''} {', '.join(indices[:10])}{more}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _exit(code: int) -> None:
    """Ends the process here and now: no destructor waits for a collective that will not come."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
