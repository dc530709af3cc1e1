"""The remaining time of a run, estimated from its finished steps."""

import datetime
import time
from collections import deque
from collections.abc import Callable

RECENT = 300.0
"""Seconds of training over which the speed is measured."""


class Remaining:
    """The remaining time of a run.

    A step counts when the devices have finished it; its dispatch returns long before that. The
    speed is measured over the last `RECENT` seconds of training. The expected time of evaluations
    is added.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """`total`: steps of the run; `clock` returns the time in seconds."""
        self._total, self._clock = total, clock
        self._points: deque[tuple[float, int]] = deque()  # (seconds of training, finished step)
        self._paused = self._pause_per_step = 0.0
        self._pause_at: int | None = None

    def finished(self, step: int) -> None:
        """Steps up to this one are finished. A step that is already known changes nothing."""
        if self._points and step <= self._points[-1][1]:
            return
        now = self._clock() - self._paused
        self._points.append((now, step))
        while len(self._points) > 2 and self._points[1][0] < now - RECENT:
            self._points.popleft()

    def pause(self, step: int, seconds: float) -> None:
        """After this step, a regular evaluation took this many seconds."""
        first = self._points[0][1] if self._points else 0
        before = first if self._pause_at is None else self._pause_at
        if step > before:
            self._pause_per_step = seconds / (step - before)
        self._pause_at = step
        self._paused += seconds

    def seconds(self) -> float | None:
        """The remaining seconds; None until the speed is known."""
        if len(self._points) < 2:
            return None
        (since, first), (now, last) = self._points[0], self._points[-1]
        each = (now - since) / (last - first)
        waited = self._clock() - self._paused - now
        left = (self._total - last) * (each + self._pause_per_step)
        return max(left - min(waited, each), 0.0)

    def __str__(self) -> str:
        seconds = self.seconds()
        return "-:--:--" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))
