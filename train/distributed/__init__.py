"""Devices and processes.

Modules:
  mesh: the mesh of devices, and how arrays are sharded over it.
  initialize: connects the processes of a run.
  processes: what the processes of a run agree on.
  multi_process: the implementation for several processes.
  launchers: finds the processes from options, SLURM, Open MPI, Kubernetes or a TPU slice.
  coordination: messages between the processes.
  tcp_proxy: a TCP proxy that hides disconnects from JAX.
  signals: SIGTERM, SIGINT and SIGHUP.
"""

from typing import TYPE_CHECKING

from train.lazy import lazy_names

if TYPE_CHECKING:
    from train.distributed.mesh import Batch as Batch
    from train.distributed.mesh import batch_sharding as batch_sharding
    from train.distributed.mesh import make_mesh as make_mesh
    from train.distributed.mesh import put_batch as put_batch
    from train.distributed.mesh import replicated_sharding as replicated_sharding
    from train.distributed.processes import CoordinatedExit as CoordinatedExit
    from train.distributed.processes import Processes as Processes
    from train.distributed.signals import StopSignal as StopSignal

__getattr__ = lazy_names(
    __name__,
    {
        "mesh": ["Batch", "batch_sharding", "make_mesh", "put_batch", "replicated_sharding"],
        "processes": ["CoordinatedExit", "Processes"],
        "signals": ["StopSignal"],
    },
)
