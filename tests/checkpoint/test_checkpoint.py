"""Checkpoints: saving, restoring, which are kept, and full disks."""

import contextlib
import os
import re
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.run.test_fit import content
from tests.runs import TINY, command, environment, resnet_jax, tiny
from train.checkpoint.manager import Checkpoints
from train.config import CheckpointConfig, ConfigError
from train.distributed.mesh import make_mesh, replicated_sharding
from train.learn.tasks import Classify
from train.run.parts import Run


@pytest.fixture(scope="module")
def state():
    return Run(tiny(ema_decay=0.9)).new_state()


def same(a: object, b: object) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def test_round_trip_is_exact(state, tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), Classify())
    window = {"loss": 0.1 + 0.2, "count": 64.0, "steps": 2}
    checkpoints.save(7, state, {"window": window, "bad": [3]}, None)
    checkpoints.close()
    found = Checkpoints(tmp_path, CheckpointConfig(), Classify()).restore(state)
    assert found.step == 7
    assert same(found.state, state)
    assert found.progress == {"window": window, "bad": [3]}


def test_empty_folder(state, tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), Classify())
    assert checkpoints.restore(state) is None
    with pytest.raises(ConfigError, match="no checkpoint in it"):
        checkpoints.restore_weights("best", replicated_sharding(make_mesh()))


def test_best_is_known_to_another_process(state, tmp_path):
    """The figures are on disk: a resumed run neither forgets nor deletes the best one."""
    first = Checkpoints(tmp_path, CheckpointConfig(keep=1), Classify())
    for step, top1 in ((1, 0.2), (2, 0.8), (3, 0.5)):
        first.save(step, state, {}, {"top1": top1})
    first.close()
    second = Checkpoints(tmp_path, CheckpointConfig(keep=1), Classify())
    second.save(4, state, {}, {"top1": 0.4})
    second.save(5, state, {}, None)
    second.wait()
    assert second.steps() == [2, 5]
    sharding = replicated_sharding(make_mesh())
    assert second.restore_weights("best", sharding).step == 2
    assert second.restore_weights("last", sharding).step == 5
    assert second.restore_weights("2", sharding).step == 2
    with pytest.raises(ConfigError, match="'3': choose best, last or one of 2, 5"):
        second.restore_weights("3", sharding)


def test_weights_are_those_that_a_run_is_judged_by(state, tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), Classify())
    shifted = jax.tree.map(lambda x: x + 1, state.ema)
    checkpoints.save(1, state.replace(ema=shifted), {}, None)
    checkpoints.save(2, state.replace(ema={}), {}, None)
    checkpoints.wait()
    sharding = replicated_sharding(make_mesh(jax.devices()[:2]))
    averaged = checkpoints.restore_weights("1", sharding)
    assert averaged.name == "ema" and same(averaged.variables, shifted)
    raw = checkpoints.restore_weights("2", sharding)
    assert raw.name == "raw" and same(raw.variables, state.variables)
    assert jax.tree.leaves(raw.variables)[0].sharding == sharding


def test_a_checkpoint_is_what_the_state_was(state, tmp_path):
    """Writing goes on while the next steps overwrite the donated buffers."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=5), Classify())
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    now = jax.tree.map(jnp.zeros_like, state)
    for i in range(5):
        checkpoints.save(i, now, {}, None)
        now = step(now)
    checkpoints.wait()
    for i in range(5):
        found = checkpoints.restore_weights(str(i), replicated_sharding(make_mesh()))
        assert all((leaf == i).all() for leaf in jax.tree.leaves(found.variables))


@pytest.fixture
def small_disk(tmp_path: Path):
    """A separate file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_good_checkpoint(small_disk, tmp_path):
    options = (*TINY, "--duration", "300st", "--log_every", "300st", "--eval.every", "150st")
    workdir, filler = small_disk / "run", small_disk / "filler"
    args = command("train", "digits", "--workdir", str(workdir), *options)
    with subprocess.Popen(
        args, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        while not list(workdir.glob("checkpoints/[1-9]0")):
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.01)
        room = os.statvfs(small_disk)
        with contextlib.suppress(OSError):  # the run may take the last block first
            filler.write_bytes(b"x" * (room.f_bavail * room.f_frsize - 4096))
        _, said = child.communicate()
    assert child.returncode == 1
    assert "Traceback" not in said
    message = re.search(r"error: .*No space left on device; the last good one is step (\d+)", said)
    assert message, said
    filler.unlink()
    assert Checkpoints(workdir / "checkpoints", CheckpointConfig(), Classify()).steps()[-1] == int(
        message[1]
    )
    for folder in (workdir, tmp_path / "undisturbed"):
        done = resnet_jax("train", "digits", "--workdir", str(folder), *options)
        assert done.returncode == 0, done.stderr
    assert content(workdir) == content(tmp_path / "undisturbed")
