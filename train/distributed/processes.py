"""The processes of a run: how they find each other, stop together, and end when one of them does.

A single process has none of it: `start` gives it a `Processes` that agrees with itself.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from train.config import ConfigError, MeshConfig, RunError
from train.distributed.launchers import detect_process


class CoordinatedExit(RunError):
    """A `RunError` that every process raises after the same step: an orderly end."""


class Processes:
    """A run's processes, this one being number `index` of `count`; here a single one."""

    index = 0
    count = 1

    @property
    def is_writer(self) -> bool:
        """Whether this is the process that writes files and shows progress: number 0."""
        return self.index == 0

    def should_stop(self, step: int, signal: str | None) -> str | None:
        """Called before every step: why all processes stop before this one, or None.

        A signal to any process stops all of them before the same step, at most a few later. This
        takes a microsecond; when a stop is on its way, as long as the network takes to agree on
        the step.

        Args:
          step: steps done; the next call has one more.
          signal: the name of a signal that this process got.
        """
        return signal

    def gather(self, value: Any) -> list[Any]:
        """Every process's value (what JSON can hold), in their order.

        Raises:
          RunError: a process did not come here within ten minutes.
        """
        return [value]

    def agree(self, good: bool) -> bool:
        """Whether it is good for all processes. Raises as `gather` does."""
        return all(self.gather(good))

    def broadcast(self, value: Any) -> Any:
        """Process 0's value. Raises as `gather` does."""
        return self.gather(value)[0]

    def barrier(self) -> None:
        """Returns when all processes are here. Raises as `gather` does."""
        self.gather(None)

    def check_same(self, what: str, value: Any) -> None:
        """Raises `ConfigError` if the value (what JSON can hold) is not the same everywhere."""
        values = self.gather(value)
        for index, other in enumerate(values):
            if other != values[0]:
                raise ConfigError(
                    f"{what}: {values[0]!r} in process 0, but {other!r} in process {index}"
                )

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """What fails inside is told to the other processes before anything outside is closed."""
        yield


@contextlib.contextmanager
def start(
    config: MeshConfig, stopped: Callable[[], str | None] = lambda: None
) -> Iterator[Processes]:
    """Joins the run's other processes, before any other use of JAX, and ends with them.

    Who they are say `mesh.coordinator`, `mesh.processes` and `mesh.process_id`, or else SLURM, Open
    MPI, Kubernetes or a TPU slice. Leaving the `with` waits for the others. An exception that
    leaves it, or `Processes.reporting` inside, ends all of them: each says which process failed,
    and why, and exits with 2 if it was bad input and 1 if not. So does the end of a process that
    was killed, or whose machine is gone, within 20 s.

    Args:
      stopped: the name of a signal that this process got, which ends its waiting for the others.

    Raises:
      ConfigError: the processes do not say the same of each other.
      RunError: they have not all come within two minutes, or before a signal.
    """
    from train.distributed.multi_process import (  # which imports this module
        CONNECT_SECONDS,
        MultiProcess,
    )

    place = detect_process(config, CONNECT_SECONDS)
    if place is None:
        yield Processes()
        return
    processes = MultiProcess(place, stopped)
    try:
        with processes.reporting():
            processes.join()
            yield processes
    except CoordinatedExit as error:
        processes.finish()
        raise CoordinatedExit(f"process {place.index}: {error}") if place.index else error from None
    processes.finish()
