"""SIGTERM, SIGINT and SIGHUP, from before JAX is there to the end of the run."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignal:
    """The signals ask for a stop after the step under way; SIGINT or SIGTERM again ends at once.

    An interrupt inside JAX's start or compilation would crash it. But Python's own handlers wait
    while the main thread compiles, for minutes: so a thread of this object's is told of signals by
    the system's handler, through a socket, and answers at once.

    A terminal that is closed may send SIGHUP twice (the shell, then the kernel): it never ends at
    once. A process that was started to ignore SIGHUP (`nohup`) goes on ignoring it.
    """

    def __init__(self, before_exit: Callable[[], object] = lambda: None) -> None:
        """`before_exit` is called before a repeated signal ends the process: ends its children."""
        self._before_exit = before_exit
        self.signal: str | None = None
        """The name of the first signal."""
        self._seen: set[int] = set()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number).name

    def _listen(self, receiver: socket.socket) -> None:
        while numbers := receiver.recv(16):
            for number in filter(SIGNALS.__contains__, numbers):
                self._answer(number)

    def _answer(self, number: int) -> None:
        self._ask(number, None)
        again = number in self._seen
        self._seen.add(number)
        name = signal.Signals(number).name
        if again and number != signal.SIGHUP:
            self._before_exit()
            _say(f"{name} again: ended at once; what came after the last checkpoint is lost")
            with contextlib.suppress(OSError, ValueError):
                if sys.stdout.isatty():
                    os.write(sys.stdout.fileno(), b"\x1b[?25h")  # the bar had hidden the cursor
            os._exit(128 + number)
        if not again:
            more = "" if number == signal.SIGHUP else " (again: at once, without saving)"
            _say(f"{name}: stopping after this step{more}")

    @contextlib.contextmanager
    def install(self) -> Iterator["StopSignal"]:
        """Handles the signals inside the `with`, and puts back what was there before."""
        if threading.current_thread() is not threading.main_thread():
            yield self  # Python delivers signals to the main thread alone
            return
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        thread = threading.Thread(target=self._listen, args=[receiver], name="signals", daemon=True)
        thread.start()
        wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        asked = [s for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
        old = {number: signal.signal(number, self._ask) for number in asked}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            sender.close()
            thread.join()
            receiver.close()


def _say(text: str) -> None:
    """A line on stderr; a terminal that takes none (Ctrl-S) holds up nothing for long."""

    def write() -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(1)
