"""Throughput of a run: images per second and the share of time that training waits for input."""

import contextlib
import time
from collections.abc import Iterator

from train.report.metrics_file import Row


class Clock:
    """Measures the time of a logging window: steps, waiting for input, pauses."""

    def __init__(self) -> None:
        self.steps = 0
        self._wait = self._pause = 0.0
        self._since, self._at = time.perf_counter(), 0

    def start(self) -> None:
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within this context, training waits for its input."""
        since = time.perf_counter()
        yield
        self._wait += time.perf_counter() - since

    def pause(self, seconds: float) -> None:
        """Excludes time that was not spent on training, such as an evaluation."""
        self._pause += seconds

    def lap(self, batch_size: int) -> Row:
        """The row of the window since the last lap: images/s, input wait (a share), seconds."""
        seconds = time.perf_counter() - self._since - self._pause
        row = {
            "images_per_sec": round((self.steps - self._at) * batch_size / seconds, 2),
            "input_wait": round(self._wait / seconds, 4),
            "seconds": round(seconds, 3),
        }
        self._since, self._at, self._wait, self._pause = time.perf_counter(), self.steps, 0.0, 0.0
        return row
