"""How a run's processes begin and end: `start`, for one process or many."""

import contextlib
from collections.abc import Callable, Iterator

from train.config import MeshConfig
from train.distributed import multi_process
from train.distributed.launchers import detect_process
from train.distributed.processes import CoordinatedExit, Processes


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
    place = detect_process(config, multi_process.CONNECT_SECONDS)
    if place is None:
        yield Processes()
        return
    processes = multi_process.MultiProcess(place, stopped)
    try:
        with processes.reporting():
            processes.join()
            yield processes
    except CoordinatedExit as error:
        processes.finish()
        raise CoordinatedExit(f"process {place.index}: {error}") if place.index else error from None
    processes.finish()
