"""Checkpoints of a sharded state, restored on other devices and in other processes."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.runs import environment
from train.checkpoint.digests import digests
from train.checkpoint.manager import Checkpoints
from train.config import CheckpointConfig
from train.learn.state import TrainState
from train.learn.tasks import Classify


def host_state() -> TrainState:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    params = {"stem": random(3, 3, 8), "head": random(64, 10), "scale": random(5)}
    opt_state = ({"trace": {name: 2 * value for name, value in params.items()}}, np.int32(7))
    return TrainState(np.int32(7), params, {"mean": random(8)}, opt_state, {})


def mesh_of(devices: list[jax.Device], fsdp: int) -> Mesh:
    shape = (len(devices) // fsdp, fsdp)
    types = (AxisType.Auto,) * 2
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=types, devices=devices)


def put(state: TrainState, mesh: Mesh) -> TrainState:
    """The momentum is sharded along the first axis that `fsdp` divides; the rest is replicated."""
    size = mesh.shape["fsdp"]

    def lie(array: np.ndarray, cut: bool) -> jax.Array:
        axis = next((i for i, n in enumerate(array.shape) if cut and n % size == 0), None)
        spec = () if axis is None else (*[None] * axis, "fsdp")
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    whole = jax.tree.map(lambda array: lie(array, False), state)
    return whole.replace(opt_state=jax.tree.map(lambda array: lie(array, True), state.opt_state))


def zeros_like(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: x * 0, state)


def check(found: TrainState, like: TrainState) -> None:
    """Checks this process's shards: bit-equal to `host_state`, with the shardings of `like`."""
    trees = [jax.tree.leaves(tree) for tree in (found, like, host_state())]
    for array, model, wanted in zip(*trees, strict=True):
        assert array.sharding == model.sharding and array.dtype == wanted.dtype
        for shard in array.addressable_shards:
            assert np.array_equal(shard.data, wanted[shard.index])


def opened(folder: Path) -> Checkpoints:
    return Checkpoints(folder, CheckpointConfig(), Classify())


def test_from_eight_devices_to_fewer_and_back(devices, tmp_path):
    eight = put(host_state(), mesh_of(devices, 2))
    trace = eight.opt_state[0]["trace"]["head"]
    assert trace.addressable_shards[0].data.shape == (32, 10)
    taken, folder = digests(eight), tmp_path / "8"
    checkpoints = opened(folder)
    checkpoints.save(7, eight, {}, {"top1": 0.5})
    checkpoints.close()
    others = [(devices[:1], 1), (devices[:2], 2), (devices[2:6], 4), (devices, 8), (devices, 1)]
    for some, fsdp in others:
        like = zeros_like(put(host_state(), mesh_of(some, fsdp)))
        there = opened(folder).restore(like).state
        check(there, like)
        assert digests(there) == taken
        again = tmp_path / f"{len(some)}-{fsdp}"
        checkpoints = opened(again)
        checkpoints.save(7, there, {}, None)
        checkpoints.close()
        check(opened(again).restore(zeros_like(eight)).state, eight)


def two_processes(folder: Path) -> None:
    """Saves and restores in two processes of two devices; each runs `main`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    args = [sys.executable, "-m", "tests.checkpoint.test_checkpoint_mesh", str(folder), str(port)]
    children = [
        subprocess.Popen([*args, str(i)], env=environment(2), stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    try:
        said = [child.communicate(timeout=120)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(said)


def main(folder: str, port: str, process: str) -> None:
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    state = put(host_state(), mesh_of(jax.devices(), 4))
    checkpoints = opened(Path(folder))
    found = checkpoints.restore(zeros_like(state))
    assert found.step == 7 and found.progress == {"bad": [1]}
    check(found.state, state)
    for step in (8, 9):
        checkpoints.save(step, found.state, {"bad": [step]}, None)
    checkpoints.wait()
    mine = Path(folder)
    if process == "1":  # only this process cannot read the newest
        mine = shutil.copytree(mine, mine.with_name("other"))
        (mine / "9" / "progress" / "metadata").write_text("")
    found = opened(mine).restore(zeros_like(state))
    assert found.step == 8
    assert ("another process" in found.notes[0]) == (process == "0")
    check(found.state, state)
    best = checkpoints.restore_weights("best", NamedSharding(state.step.sharding.mesh, jax.P()))
    assert best.step == 7
    check(state.replace(params=best.variables["params"]), state)
    checkpoints.close()


def test_two_processes_and_back(devices, tmp_path):
    """Two processes restore one process's checkpoint, save, fall back; one restores theirs."""
    whole = put(host_state(), mesh_of(devices, 2))
    folder = tmp_path / "checkpoints"
    checkpoints = opened(folder)
    checkpoints.save(7, whole, {"bad": [1]}, {"top1": 0.5})
    checkpoints.close()
    two_processes(folder)
    assert {path.name for path in folder.iterdir()} == {"7", "8", "9.corrupt"}
    assert (folder / "8" / "state" / "ocdbt.process_1").is_dir()
    found = opened(folder).restore(zeros_like(whole))
    assert found.step == 8 and found.progress == {"bad": [8]}
    check(found.state, whole)


if __name__ == "__main__":
    main(*sys.argv[1:])
