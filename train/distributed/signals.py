"""Handling of SIGTERM, SIGINT and SIGHUP, from before JAX starts until the end of a run."""

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
    """A signal requests a stop after the current step. A second SIGINT or SIGTERM ends at once.

    A KeyboardInterrupt while JAX starts or compiles would crash it. Python's own handlers only run
    in the main thread, which may compile for minutes. So the system's handler writes signals to a
    socket (`signal.set_wakeup_fd`), and a thread reads them and responds at once.

    SIGHUP never ends the process at once, because a terminal that is closed may send it twice (the
    shell, then the kernel). A process that was started to ignore SIGHUP (`nohup`) ignores it.
    """

    def __init__(self, before_exit: Callable[[], object] = lambda: None) -> None:
        """`before_exit` is called before a repeated signal ends the process: it ends children."""
        self._before_exit = before_exit
        self.signal: str | None = None
        """The name of the first signal; None: no signal yet."""
        self._seen: set[int] = set()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number).name

    def _listen(self, receiver: socket.socket) -> None:
        while numbers := receiver.recv(16):
            for number in filter(SIGNALS.__contains__, numbers):
                self._respond(number)

    def _respond(self, number: int) -> None:
        self._request(number, None)
        again = number in self._seen
        self._seen.add(number)
        name = signal.Signals(number).name
        if again and number != signal.SIGHUP:
            self._before_exit()
            _print_line(f"{name} again: ended at once; what came after the last checkpoint is lost")
            with contextlib.suppress(OSError, ValueError):
                if sys.stdout.isatty():
                    os.write(sys.stdout.fileno(), b"\x1b[?25h")  # show the cursor
            os._exit(128 + number)
        if not again:
            more = "" if number == signal.SIGHUP else " (again: at once, without saving)"
            _print_line(f"{name}: stopping after this step{more}")

    @contextlib.contextmanager
    def install(self) -> Iterator["StopSignal"]:
        """Handles the signals inside the `with`, and then restores the previous handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield self  # Python handles signals in the main thread only
            return
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        thread = threading.Thread(target=self._listen, args=[receiver], name="signals", daemon=True)
        thread.start()
        wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        handled = [s for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
        old = {number: signal.signal(number, self._request) for number in handled}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            sender.close()
            thread.join()
            receiver.close()


def _print_line(text: str) -> None:
    """Prints a line on stderr; a terminal that blocks (Ctrl-S) causes a delay of at most 1 s."""

    def write() -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(1)
