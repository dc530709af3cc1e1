"""Detects the processes of a run, from its options or from the launcher that started it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from train.config import ConfigError, MeshConfig

_HOW = "--mesh.coordinator HOST:PORT --mesh.processes N --mesh.process_id K"


@dataclass(frozen=True)
class ProcessInfo:
    """One of the `count` processes of a run."""

    host: str
    """Host name or address of process 0."""
    port: int
    count: int
    index: int
    local_devices: list[int] | None = None
    """Indices of the GPUs of its machine that it uses; None: all visible ones."""


def detect_process(
    config: MeshConfig, seconds: int, environ: Mapping[str, str] = os.environ
) -> ProcessInfo | None:
    """This process among several processes; None: the run has a single process.

    Args:
      seconds: time limit for a launcher's service.

    Raises:
      ConfigError: a launcher started several processes, but some information is missing.
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
    """The launcher that started several processes, by the variables that it documents, or None."""

    def number(name: str) -> int:
        value = environ.get(name, "")
        return int(value) if value.isdigit() else 0

    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    # A batch script has SLURM_NTASKS too; only the processes of a step have the other variables.
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
    """Whether this is a TPU VM; Google's metadata server knows the other machines of the slice."""
    from jax._src import cloud_tpu_init

    platforms = environ.get("JAX_PLATFORMS") or "tpu"
    return cloud_tpu_init.running_in_cloud_tpu_vm and "tpu" in platforms.split(",")


def _detect(launcher: str, seconds: int, environ: Mapping[str, str]) -> ProcessInfo | None:
    """Reads the launcher's variables, with JAX's own detection."""
    if launcher == "Kubernetes" and not find_spec("kubernetes"):
        raise ConfigError(
            "this is a pod of an indexed Kubernetes job. For pods that train together, pass "
            f"{_HOW}, or install the package kubernetes (pip install 'jax[k8s]'). For a pod that "
            "trains alone, pass --mesh.processes 1"
        )
    from jax._src.clusters import ClusterEnv

    method = None
    if launcher == "Open MPI" and "OMPI_MCA_orte_hnp_uri" not in environ:  # version 5 or later
        method = "mpi4py"
    try:
        # Address of process 0, number of processes, index of this one, indices of its GPUs.
        address, count, index, local = ClusterEnv.auto_detect_unset_distributed_params(
            environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, method, seconds
        )
    except Exception as error:  # no answer from a server, or an unexpected variable
        raise ConfigError(
            f"{launcher} started this process, but the other processes cannot be detected "
            f"({error}). Pass {_HOW}, or --mesh.processes 1 to train alone"
        ) from error
    if address is None or count is None or index is None:
        needs = " (version 5 and later needs the package mpi4py)" if method else ""
        raise ConfigError(
            f"{launcher} started this process, but JAX cannot detect the other processes{needs}. "
            f"Pass {_HOW}, or --mesh.processes 1 to train alone"
        )
    if count == 1:
        return None
    # JAX gives each process one GPU, by its number on the machine. A process that is alone on its
    # machine uses all GPUs, and one to which the launcher shows a single GPU uses that one.
    if _alone_on_its_machine(environ) or environ.get("CUDA_VISIBLE_DEVICES", "").isdigit():
        local = None
    return ProcessInfo(*_address(address), count, index, list(local) if local else None)


def _alone_on_its_machine(environ: Mapping[str, str]) -> bool:
    here = environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
    if here is None:
        here = environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]  # "1(x4)"
    return here == "1"
