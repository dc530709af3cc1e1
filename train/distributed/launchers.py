"""Which processes a run has, as its options or whoever started it say."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from train.config import ConfigError, MeshConfig

_HOW = "--mesh.coordinator HOST:PORT --mesh.processes N --mesh.process_id K"


@dataclass(frozen=True)
class ProcessInfo:
    """A process among `count`."""

    host: str
    """Where process 0 is."""
    port: int
    count: int
    index: int
    local_devices: list[int] | None = None
    """The GPUs of its machine that it uses; None: all that it sees."""


def detect_process(
    config: MeshConfig, seconds: int, environ: Mapping[str, str] = os.environ
) -> ProcessInfo | None:
    """This process's place among several; None: it is alone.

    Raises:
      ConfigError: a launcher started several and does not say all of what is needed.
    """
    if config.processes == 1:
        return None
    if config.coordinator is not None:
        assert config.processes is not None and config.process_id is not None
        host, port = _address(config.coordinator)
        return ProcessInfo(host, port, config.processes, config.process_id)
    launcher = launched_by(environ)
    return _detect(launcher, seconds, environ) if launcher else None


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(f"mesh.coordinator {coordinator!r}: needs host:port")
    return host.strip("[]"), int(port)


def launched_by(environ: Mapping[str, str]) -> str | None:
    """The launcher that says that it started several processes, by the variables it documents."""

    def number(name: str) -> int:
        value = environ.get(name, "")
        return int(value) if value.isdigit() else 0

    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    # A batch script has SLURM_NTASKS too: it is a step's own variables that say who was started.
    step = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if number("SLURM_NTASKS") > 1 and all(name in environ for name in step):
        return "SLURM"
    workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
    if "," in workers or number("MEGASCALE_NUM_SLICES") > 1 or _on_a_tpu_machine(environ):
        return "TPU"
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return "Kubernetes"
    return None


def _on_a_tpu_machine(environ: Mapping[str, str]) -> bool:
    """Whether only Google's metadata server can tell how many machines the slice has."""
    from jax._src import cloud_tpu_init

    platforms = environ.get("JAX_PLATFORMS") or "tpu"
    return cloud_tpu_init.running_in_cloud_tpu_vm and "tpu" in platforms.split(",")


def _detect(launcher: str, seconds: int, environ: Mapping[str, str]) -> ProcessInfo | None:
    """What JAX makes of the launcher's variables."""
    if launcher == "Kubernetes" and not find_spec("kubernetes"):
        raise ConfigError(
            "this is a pod of an indexed Kubernetes job. Several that train together are told "
            f"{_HOW}, or find each other with the package kubernetes (pip install 'jax[k8s]'); "
            "for one that trains alone: --mesh.processes 1"
        )
    from jax._src.clusters import ClusterEnv

    method = None
    if launcher == "Open MPI" and "OMPI_MCA_orte_hnp_uri" not in environ:  # version 5 and later
        method = "mpi4py"
    try:
        # The address of process 0, their number, which one this is, and the GPUs that it has.
        address, count, index, local = ClusterEnv.auto_detect_unset_distributed_params(
            environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, method, seconds
        )
    except Exception as error:  # a server that does not answer, a variable in another form
        raise ConfigError(
            f"{launcher} started this process, and does not say which others there are ({error}). "
            f"{_HOW} say it; --mesh.processes 1: it trains alone"
        ) from error
    if address is None or count is None or index is None:
        needs = " (from version 5 on it takes the package mpi4py)" if method else ""
        raise ConfigError(
            f"{launcher} started this process, and JAX cannot tell which others there are{needs}. "
            f"{_HOW} say it; --mesh.processes 1: it trains alone"
        )
    if count == 1:
        return None
    # JAX gives each process one GPU, by its number on the machine. One that is there alone uses
    # all of them, and one that the launcher lets see a single GPU has that one.
    if _alone_on_its_machine(environ) or environ.get("CUDA_VISIBLE_DEVICES", "").isdigit():
        local = None
    return ProcessInfo(*_address(address), count, index, list(local) if local else None)


def _alone_on_its_machine(environ: Mapping[str, str]) -> bool:
    here = environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
    if here is None:
        here = environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]  # "1(x4)"
    return here == "1"
