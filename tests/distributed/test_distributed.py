"""Several processes, with two simulated devices each, train as one does, and end together."""

import hashlib
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.run.test_fit import content, photos
from tests.runs import TINY, command, environment, resnet_jax, tiny
from train.checkpoint.manager import Checkpoints
from train.data.pipeline import eval_batches, train_batches
from train.data.sources import open_splits
from train.distributed.mesh import make_mesh, replicated_sharding
from train.distributed.multi_process import AGAIN
from train.learn.tasks import Classify
from train.report.metrics_file import read_metrics
from train.run.directory import read_config

# At a kink, such as ReLU's, rounding decides which way a gradient goes.
OPTIONS = (*TINY, "--model.activation", "silu", "--ema_decay", "0", "--optim.schedule", "constant")
OPTIONS += ("--checkpoint.every", "10st")
OPTIONS += ("--eval.every", "50st", "--log_every", "5st", "--checkpoint.keep", "99")


KILLED = "it was killed, or its machine or network failed. " + AGAIN
GLOO = r"\[Gloo\] Rank |is connected to|peer ranks\.|Expected number of connected peer ranks is :"
"""Lines that the CPU's collectives write to stdout."""


@dataclass
class Job:
    """The processes of a run; their outputs are in `FILE.out` and `FILE.err`."""

    processes: list[subprocess.Popen[bytes]]
    files: list[Path]

    def wait_for(self, text: str) -> None:
        """Waits until process 0 prints `text`."""
        end = time.monotonic() + 120
        while text not in self.printed(0):
            assert self.processes[0].poll() is None, self.said()
            assert time.monotonic() < end, f"{text!r} was not printed: {self.said()}"
            time.sleep(0.05)

    def end(self, seconds: float) -> list[int]:
        """The exit codes of the processes, which must all end within `seconds`."""
        end = time.monotonic() + seconds
        return [child.wait(max(end - time.monotonic(), 0.1)) for child in self.processes]

    def printed(self, process: int) -> str:
        """The stdout of a process."""
        return re.sub(GLOO, "", self.files[process].with_suffix(".out").read_text())

    def errors(self, process: int) -> list[str]:
        """The stderr of a process, without warnings about waiting and responses to signals."""
        lines = self.files[process].with_suffix(".err").read_text().splitlines()
        passing = ("warning: waiting for process", "SIGTERM: stopping")
        return [line for line in lines if not line.startswith(passing)]

    def said(self) -> str:
        """The output of all processes."""
        return "".join(f.with_suffix(s).read_text() for f in self.files for s in (".out", ".err"))


def launch(workdir: Path, count: int, *options: str) -> Job:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"localhost:{probe.getsockname()[1]}"
    mesh = ("--mesh.coordinator", coordinator, "--mesh.processes", str(count))
    job = Job([], [])
    for k in range(count):
        args = ("train", "digits", "--workdir", str(workdir), *options, *mesh)
        file = workdir.with_name(f"printed-{len(list(workdir.parent.iterdir()))}-{k}")
        with file.with_suffix(".out").open("w") as out, file.with_suffix(".err").open("w") as err:
            child = subprocess.Popen(
                command(*args, "--mesh.process_id", str(k)),
                env=environment(2, PYTHONUNBUFFERED="1"),
                stdout=out,
                stderr=err,
            )
        job.processes.append(child)
        job.files.append(file)
    return job


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 50 steps in one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    args = ("--workdir", str(workdir), *OPTIONS, "--duration", "50st")
    done = resnet_jax("train", "digits", *args, devices=2)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps in two processes."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    job = launch(workdir, 2, *OPTIONS)
    assert job.end(300) == [0, 0], job.said()
    assert "best checkpoint: step" in job.printed(0)
    assert not re.search("[a-z]", job.printed(1)) and job.errors(0) == job.errors(1) == []
    return workdir


def variables_at(workdir: Path, step: int) -> list[np.ndarray]:
    checkpoints = Checkpoints(workdir / "checkpoints", read_config(workdir).checkpoint, Classify())
    weights = checkpoints.restore_weights(
        str(step), replicated_sharding(make_mesh(jax.devices()[:1]))
    )
    return [np.asarray(leaf) for leaf in jax.tree.leaves(weights.variables)]


def check_same(workdir: Path, alone: Path) -> None:
    """After 50 steps: parameters and statistics, losses, and an exact evaluation."""
    pairs = zip(variables_at(workdir, 50), variables_at(alone, 50), strict=True)
    for ours, theirs in pairs:
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
    assert len(variables_at(alone, 50)) > 20
    rows = [r for r in read_metrics(workdir / "metrics.jsonl") if r["step"] <= 50]
    expected = read_metrics(alone / "metrics.jsonl")
    assert [(r["step"], r["split"]) for r in rows] == [(r["step"], r["split"]) for r in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row["top1"] == other["top1"]
    assert rows[-1]["split"] == "eval" and rows[-1]["examples"] == 359


def test_two_train_as_one(alone, together):
    check_same(together, alone)
    files = {p.name for p in together.iterdir()}
    assert files == {"config.json", "metrics.jsonl", "checkpoints", "tensorboard", "report"}
    assert len(list((together / "tensorboard").iterdir())) == 1
    page = (together / "report" / "index.html").read_text()
    assert "(359 images)" in page  # of both processes


@pytest.mark.slow
def test_four_train_as_one(alone, tmp_path):
    job = launch(tmp_path / "run", 4, *OPTIONS, "--duration", "50st")
    assert job.end(400) == [0] * 4, job.said()
    check_same(tmp_path / "run", alone)


def test_killed_then_stopped_then_resumed(together, tmp_path):
    """The end is bit-identical to that of an uninterrupted run."""
    workdir = tmp_path / "run"
    job = launch(workdir, 2, *OPTIONS)
    job.wait_for("step 15/60")
    job.processes[1].send_signal(signal.SIGKILL)
    assert job.end(60) == [1, -signal.SIGKILL]
    assert job.errors(0) == [f"error: process 1 is gone: {KILLED}"]

    job = launch(workdir, 2, *OPTIONS)
    job.wait_for("resumes after step")
    job.wait_for("step 25/60")
    job.processes[1].send_signal(signal.SIGTERM)
    assert job.end(60) == [1, 1]
    (said,) = job.errors(0)
    step = re.search(r"stopped by SIGTERM to process 1 after step (\d+) of 60, saved", said)
    assert step and 25 <= int(step[1]) < 60, said
    assert job.errors(1) == [said.replace("error: ", "error: process 1: ")]
    assert (workdir / "checkpoints" / step[1]).is_dir()

    job = launch(workdir, 2, *OPTIONS)
    assert job.end(300) == [0, 0], job.said()
    assert f"resumes after step {step[1]} of 60" in job.printed(0)
    assert content(workdir) == content(together)


@pytest.mark.slow
def test_the_end_of_process_0_is_told_too(tmp_path):
    """Process 0 has the coordination services of JAX and of the run."""
    job = launch(tmp_path / "run", 2, *OPTIONS, "--duration", "2000st")
    job.wait_for("step 5/2000")
    job.processes[0].send_signal(signal.SIGKILL)
    assert job.end(60) == [-signal.SIGKILL, 1]
    assert job.errors(1) == [f"error: process 0 is gone: {KILLED}"]


def test_a_bad_image_of_one_process_ends_both(tmp_path):
    root = photos(tmp_path / "photos")
    (root / "train" / "blue" / "05.png").write_text("no image at all")
    data = ("--data.name", "folder", "--data.dir", str(root), "--data.eval_split", "val")
    shape = ("--data.image_size", "16", "--batch_size", "8", "--eval.batch_size", "8")
    shape += ("--log_every", "1st")  # keeps process 1 from reaching a file of its own share
    job = launch(tmp_path / "run", 2, *OPTIONS, *data, *shape, "--data.mean", "0.3", "0.3", "0.3",
                 "--data.std", "0.3", "0.3", "0.3")  # fmt: skip
    assert job.end(120) == [2, 2]
    said = job.errors(0) + job.errors(1)
    assert len(said) == 2 and all("train/blue/05.png: not an image" in s for s in said)
    own = [re.match(r"error: process (\d): ", s) for s in said]
    (who,) = (match[1] for match in own if match)
    (other,) = (s for s, match in zip(said, own, strict=True) if not match)
    assert other.startswith(f"error: process {who} failed: ")


BATCHES = """
import hashlib, sys
import jax, numpy as np
from jax.experimental.multihost_utils import process_allgather
from tests.distributed.test_distributed import batches
from tests.runs import tiny
from train.config import MeshConfig
from train.distributed.mesh import make_mesh, put_batch, shard
from train.distributed.initialize import start
with start(MeshConfig(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))):
    mesh = make_mesh()
    for batch in batches(shard(mesh)):
        for name, array in sorted(put_batch(batch, mesh).items()):
            whole = np.asarray(process_allgather(array, tiled=True))
            print(name, hashlib.sha256(whole.tobytes()).hexdigest(), file=sys.stderr)
"""


def batches(shard: tuple[int, int] = (0, 1)):
    """One process's rows of three training batches and of the evaluation batches."""
    config = tiny()
    splits = open_splits(config.data)
    yield from train_batches(
        splits.train,
        config.data,
        config.augment,
        seed=7,
        batch_size=32,
        start=43,  # the second epoch begins in one of them
        stop=46,
        shard=shard,
    )
    yield from eval_batches(splits.eval, config.data, config.eval, batch_size=96, shard=shard)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_global_batch_is_that_of_one_process(count, tmp_path):
    """A hash of the images, labels and masks of a batch on the devices."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"localhost:{probe.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BATCHES, coordinator, str(count), str(k)],
            env=environment(2),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(count)
    ]
    expected = [
        f"{name} {hashlib.sha256(batch[name].tobytes()).hexdigest()}"
        for batch in batches()
        for name in ("image", "label", "mask")
    ]
    assert len(set(expected)) > 12
    for child in started:
        _, printed = child.communicate(timeout=100)
        assert (child.returncode, printed.splitlines()) == (0, expected)
