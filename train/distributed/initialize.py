"""Starts a run's processes: connects this process to the others, or makes it a single one."""

import contextlib
from collections.abc import Callable, Iterator

from train.config import MeshConfig
from train.distributed import multi_process
from train.distributed.launchers import detect_process
from train.distributed.multi_process import MultiProcess
from train.distributed.processes import CoordinatedExit, Processes


@contextlib.contextmanager
def start(
    config: MeshConfig, stopped: Callable[[], str | None] = lambda: None
) -> Iterator[Processes]:
    """Connects to the run's other processes. It must run before any other use of JAX.

    `mesh.coordinator`, `mesh.processes` and `mesh.process_id` define the processes; without them,
    SLURM, Open MPI, Kubernetes or a TPU slice does. Leaving the `with` waits for the other
    processes.

    All processes end together. If an exception leaves the `with`, or `Processes.reporting` inside
    it, every process prints which one failed and why, and exits with code 2 for bad input and 1
    otherwise. The same happens within 20 s after a process was killed or its machine failed.

    Args:
      stopped: the name of a signal that this process received, which ends waiting for the others;
        else None.

    Raises:
      ConfigError: the processes disagree about their number or their indices.
      RunError: not all processes connected within two minutes, or before a signal.
    """
    info = detect_process(config, multi_process.CONNECT_SECONDS)
    if info is None:
        yield Processes()
        return
    processes = MultiProcess(info, stopped)
    try:
        with processes.reporting():
            processes.join()
            yield processes
    except CoordinatedExit as error:
        processes.finish()
        raise CoordinatedExit(f"process {info.index}: {error}") if info.index else error from None
    processes.finish()
