"""SIGTERM and SIGINT, from before JAX is there to the end of the run."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stop:
    """The signals ask for a stop at the next step; a second one is not held back.

    An interrupt inside JAX's start or compilation would crash it.
    """

    def __init__(self) -> None:
        self.signal: str | None = None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Handles the signals inside the `with`, and puts back what was there before."""
        if threading.current_thread() is not threading.main_thread():
            yield self  # Python delivers signals to the main thread alone
            return
        old = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
