"""The interface between a run and its processes; here, for a run of a single process.

`train.distributed.multi_process.MultiProcess` implements it for several processes.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from train.config import ConfigError, RunError


class CoordinatedExit(RunError):
    """A `RunError` that every process raises after the same step, so that all end in order."""


class Processes:
    """The processes of a run. This one has number `index` of `count`; here it is the only one."""

    index = 0
    count = 1

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and shows progress: only process 0 does."""
        return self.index == 0

    def should_stop(self, step: int, signal: str | None) -> str | None:
        """The reason why all processes stop before the next step, or None.

        It is called before every step. After a signal to any process, all processes stop before
        the same step, at most a few steps later. A call takes a microsecond; after a signal, it
        waits until the processes have agreed on the step over the network.

        Args:
          step: number of completed steps; it increases by one with every call.
          signal: the name of a signal that this process received, or None.
        """
        return signal

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their indices.

        Args:
          value: anything that JSON can represent.

        Raises:
          RunError: a process did not call it within ten minutes.
        """
        return [value]

    def agree(self, good: bool) -> bool:
        """Whether `good` is True in all processes. Raises as `gather` does."""
        return all(self.gather(good))

    def broadcast(self, value: Any) -> Any:
        """The value of process 0. Raises as `gather` does."""
        return self.gather(value)[0]

    def barrier(self) -> None:
        """Returns when all processes have called it. Raises as `gather` does."""
        self.gather(None)

    def check_same(self, what: str, value: Any) -> None:
        """Checks that a value is the same in all processes.

        Args:
          what: the name of the value, for the message.
          value: anything that JSON can represent.

        Raises:
          ConfigError: the value differs.
        """
        values = self.gather(value)
        for index, other in enumerate(values):
            if other != values[0]:
                raise ConfigError(
                    f"{what}: {values[0]!r} in process 0, but {other!r} in process {index}"
                )

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Reports an exception inside the `with` to the other processes, before cleaning up."""
        yield
