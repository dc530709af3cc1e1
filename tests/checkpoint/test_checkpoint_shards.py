"""Restoring a state that is sharded over processes: each reads only its own share."""

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.runs import environment
from train.checkpoint import reader
from train.checkpoint.digests import named
from train.checkpoint.manager import Checkpoints
from train.checkpoint.reader import open_checkpoint, read_record, to_json, verify
from train.checkpoint.restore import held_range, restore
from train.config import CheckpointConfig, RunError
from train.learn.state import TrainState
from train.learn.tasks import Classify

MIB = 2**20
ARRAYS, SHAPE = 12, (1024, 2048)  # of 8 MiB each
TOTAL = ARRAYS * 8 * MIB


def mesh_of(devices: list[jax.Device], fsdp: int) -> Mesh:
    shape = (len(devices) // fsdp, fsdp)
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def test_the_range_that_a_process_holds(devices):
    """The whole array for a single process; a part of an axis for devices that share it."""
    mesh = mesh_of(devices[:4], 4)
    for spec, shape in (((), (3, 5)), (("fsdp",), (8, 3)), ((None, "fsdp"), (3, 8)), ((), ())):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        assert held_range(sharding, shape) == tuple(slice(0, n) for n in shape)

    class OfOneProcess:
        """Two of four devices, which hold the second half of axis 1."""

        def addressable_devices_indices_map(self, shape):
            return {0: (slice(None), slice(4, 6)), 1: (slice(None), slice(6, None))}

    assert held_range(OfOneProcess(), (3, 8)) == (slice(0, 3), slice(4, 8))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, devices) -> tuple[Path, TrainState]:
    """A checkpoint with averaged weights and arrays of all ranks."""
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal((64, 8), np.float32) for name in "ab"}
    params["vector"] = np.arange(5.0, dtype=np.float32)
    ema = {"params": jax.tree.map(lambda x: x + 1, params), "batch_stats": {}}
    state = TrainState(np.int32(3), params, {}, {"trace": params}, ema)
    sharding = NamedSharding(mesh_of(devices, 1), PartitionSpec())
    state = jax.device_put(state, sharding)
    folder = tmp_path_factory.mktemp("small")
    checkpoints = Checkpoints(folder, CheckpointConfig(), Classify())
    checkpoints.save(3, state, {}, None)
    checkpoints.close()
    return folder, state


def test_a_range_is_read_as_it_was_saved(small):
    folder, state = small
    stored = open_checkpoint(folder / "3")
    ranges = {
        "params/a": (slice(16, 32), slice(2, 8)),
        "step": (),
        "params/vector": (slice(1, 3),),
    }
    found = dict(stored.read(ranges))
    assert list(found) == list(ranges)
    np.testing.assert_array_equal(found["params/a"], state.params["a"][16:32, 2:8])
    assert found["step"].shape == () and found["step"] == 3
    assert found["params/vector"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("ahead", [1, 3000, 2**20])
def test_every_array_is_read_however_little_may_be_held(small, ahead, monkeypatch):
    folder, state = small
    monkeypatch.setattr(reader, "READ_AHEAD", ahead)
    found = Checkpoints(folder, CheckpointConfig(), Classify()).restore(state).state
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), found, state))


def test_evaluation_reads_the_weights_alone(small, tmp_path, devices):
    """A damaged optimiser state prevents a resume, but not an evaluation."""
    folder, state = small
    copy = shutil.copytree(folder, tmp_path / "copy")
    record = read_record(copy / "3")
    record.digests["opt_state/trace/a"] = "float32[64,8] 00000000"
    (copy / "3" / "progress" / "metadata").write_text(json.dumps(to_json(3, record)))
    checkpoints = Checkpoints(copy, CheckpointConfig(), Classify())
    sharding = NamedSharding(mesh_of(devices[:2], 2), PartitionSpec())
    found = checkpoints.restore_weights("last", sharding)
    assert found.name == "ema" and set(found.variables) == {"params", "batch_stats"}
    np.testing.assert_array_equal(found.variables["params"]["a"], state.params["a"] + 1)
    assert found.variables["params"]["a"].sharding == sharding
    message = r"opt_state/trace/a is not what was saved \(float32\[64,8\] \w{8}, not .* 00000000\)"
    with pytest.raises(RunError, match=message):
        checkpoints.restore(state)


# --- two processes -------------------------------------------------------------------------------


def read_so_far() -> int:
    """Number of bytes that this process has read from files."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def status(field: str) -> int:
    """Bytes of resident memory: now (VmRSS), or the peak since `restart_peak` (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def restart_peak() -> int:
    """Resets the peak of resident memory, and returns the present value."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def large_state(mesh: Mesh, seed: int) -> TrainState:
    """`ARRAYS` arrays sharded over the mesh; each process makes its own shards."""
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    shard = (SHAPE[0] // mesh.shape["fsdp"], SHAPE[1])

    def make(number: int) -> jax.Array:
        def numbers(index: tuple[slice, ...]) -> np.ndarray:
            rng = np.random.default_rng([seed, number, index[0].start or 0])
            return rng.standard_normal(shard, np.float32)

        return jax.make_array_from_callback(SHAPE, sharding, numbers)

    params = {f"{number:02}": make(number) for number in range(ARRAYS)}
    step = jax.device_put(np.int32(1), NamedSharding(mesh, PartitionSpec()))
    return TrainState(step, params, {}, {}, {})


def check_disagreement(folder: Path, template: TrainState, process: str) -> None:
    """If one process finds damage, no process uses the arrays, and none waits for ever."""
    if process == "1":
        copy = shutil.copytree(folder, folder.parent / "other" / "1")
        record = read_record(copy)
        record.digests["params/00"] = record.digests["params/00"][:-8] + "00000000"
        (copy / "progress" / "metadata").write_text(json.dumps(to_json(1, record)))
        folder = copy
    shardings = {name: leaf.sharding for name, leaf in named(template).items()}
    found, why = restore(folder, lambda _: shardings, template)
    assert found is None
    alone = "params/00 is not what was saved" if process == "1" else "another process could not"
    assert alone in why, why


def main(folder: str, port: str, process: str) -> None:
    """One of two processes: saves, restores, and prints the bytes and memory that this took."""
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    reader.READ_AHEAD = 8 * MIB
    state = large_state(mesh_of(jax.devices(), 4), 1)
    checkpoints = Checkpoints(Path(folder), CheckpointConfig(), Classify())
    before = restart_peak()
    checkpoints.save(1, state, {}, None)
    checkpoints.wait()
    print(f"save: {status('VmHWM') - before} bytes")
    template = large_state(mesh_of(jax.devices(), 4), 2)
    read, before = read_so_far(), restart_peak()
    found = checkpoints.restore(template)
    print(f"read: {read_so_far() - read} bytes")
    print(f"restore: {status('VmHWM') - before} bytes")
    for one, other in zip(*map(jax.tree.leaves, (found.state, state)), strict=True):
        for a, b in zip(one.addressable_shards, other.addressable_shards, strict=True):
            assert np.array_equal(a.data, b.data)
    check_disagreement(Path(folder) / "1", template, process)
    if process == "0":
        before = restart_peak()
        verify(Path(folder) / "1")
        print(f"verify: {status('VmHWM') - before} bytes")
    checkpoints.close()


@pytest.mark.skipif(sys.platform != "linux", reason="measured by /proc")
def test_each_of_two_processes_reads_its_share(tmp_path):
    """Each process reads half of the state, and needs little memory beyond its share."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    args = [
        sys.executable,
        "-m",
        "tests.checkpoint.test_checkpoint_shards",
        str(tmp_path),
        str(port),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [subprocess.Popen([*args, str(i)], env=environment(2), **pipes) for i in range(2)]
    try:
        said = [child.communicate(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(err for _, err in said)
    for i, (out, _) in enumerate(said):
        said_here = re.findall(r"^(\w+): (\d+) bytes$", out, re.MULTILINE)
        found = {name: int(size) for name, size in said_here}
        print(i, {name: f"{size / MIB:.1f}" for name, size in found.items()})
        assert 0.4 * TOTAL < found["read"] < 0.55 * TOTAL
        assert found["restore"] < 0.8 * TOTAL  # its share, now on its devices, and a little more
        if i == 0:
            assert found["verify"] < 0.4 * TOTAL


if __name__ == "__main__":
    main(*sys.argv[1:])
