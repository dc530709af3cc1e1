"""train/distributed/launchers.py: detects the launcher and the other processes."""

from collections.abc import Callable

import pytest

from train.config import ConfigError, MeshConfig
from train.distributed.launchers import ProcessInfo, detect_process, launched_by

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "node[001,007-015],host2",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    "variables, launcher",
    [
        ({}, None),
        (SLURM, "SLURM"),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, None),  # a batch script
        (OPEN_MPI, "Open MPI"),
        ({**SLURM, **OPEN_MPI}, "Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (POD, "Kubernetes"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a pod that is not part of an indexed job
        ({**POD, "TPU_WORKER_HOSTNAMES": "t-0,t-1"}, "TPU"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"MEGASCALE_NUM_SLICES": "2"}, "TPU"),
    ],
)
def test_launchers(variables, launcher):
    assert launched_by(variables) == launcher


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ProcessInfo | None]:
    """`detect_process` with only these environment variables."""

    def detect(variables: dict[str, str], config: MeshConfig | None = None) -> ProcessInfo | None:
        for name in {**SLURM, **OPEN_MPI, **POD}:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return detect_process(config or MeshConfig(), 5)

    return detect


def test_places(launched):
    port = 65535 - 2**12 + 1 + 4711 % 2**12
    assert launched(SLURM) == ProcessInfo("node001", port, 4, 3, [1])
    assert launched({**SLURM, "CUDA_VISIBLE_DEVICES": "1"}) == ProcessInfo("node001", port, 4, 3)
    alone = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x4)"}
    assert launched({**alone, "CUDA_VISIBLE_DEVICES": "0,1"}) == ProcessInfo("node001", port, 4, 3)
    assert launched(SLURM, MeshConfig(processes=1)) is None
    port = 65535 - 2**12 + 1 + 1531576320 // 2**12 % 2**12
    assert launched(OPEN_MPI) == ProcessInfo("10.96.0.1", port, 2, 1)
    explicit = MeshConfig(coordinator="[fe80::1]:99", processes=2, process_id=0)
    assert launched(SLURM, explicit) == ProcessInfo("fe80::1", 99, 2, 0)


@pytest.mark.parametrize(
    "variables, config, message",
    [
        (POD, {}, r"pod of an indexed Kubernetes job.*--mesh.coordinator HOST:PORT.*jax\[k8s\]"),
        (
            {"OMPI_COMM_WORLD_SIZE": "2"},
            {},
            "Open MPI started this process, .*the other processes.*mpi4py.*--mesh.process_id",
        ),
        ({**SLURM, "SLURM_PROCID": "x"}, {}, "SLURM started this process.*invalid literal.*'x'"),
        ({}, {"coordinator": "host", "processes": 2, "process_id": 0}, "'host': needs host:port"),
        ({}, {"coordinator": "h:99999", "processes": 2, "process_id": 0}, "needs host:port"),
    ],
)
def test_what_cannot_be_told(variables, config, message, launched, monkeypatch):
    monkeypatch.setattr("train.distributed.launchers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=message):
        launched(variables, MeshConfig(**config))
