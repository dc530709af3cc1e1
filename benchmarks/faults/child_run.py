"""A tiny training run in a child process, observed from outside, for fault tests."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from train.checkpoint.reader import CheckpointData, CorruptCheckpoint, read

ROOT = Path(__file__).parents[2]
STEPS, EVAL, SAVE, LOG = 1000, 100, 50, 10
OPTIONS = (
    *("--model.name", "resnet8_cifar", "--model.depths", "1", "1", "--model.width", "8"),
    *("--batch_size", "32", "--ema_decay", "0.9", "--log_every", f"{LOG}st"),
    *("--eval.every", f"{EVAL}st", "--eval.batch_size", "4", "--checkpoint.every", f"{SAVE}st"),
)
TIMES = ("seconds", "images_per_sec", "input_wait")
LIMIT = 600.0
"""Seconds that a run may take to end, or to reach a state that is waited for."""


class RunTimeout(subprocess.SubprocessError):
    """A run did not end, or did not reach a state, within `LIMIT` seconds."""


def command(workdir: Path, *options: str) -> list[str]:
    """The command line of the run, as a child process."""
    return [sys.executable, "-m", "train", "train", "digits", "--workdir", str(workdir), *options]


def default_signals() -> None:
    """Sets SIGINT and SIGHUP to their defaults, which the runs inherit.

    A shell lets a command in the background, or under nohup, ignore them.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def environment(cache: Path) -> dict[str, str]:
    """For a child process: one device, unbuffered output, a separate compilation cache."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }


class Workdir:
    """A run's directory and the processes that train in it, observed from outside."""

    def __init__(
        self, path: Path, log_dir: Path, env: dict[str, str], steps: int, *options: str
    ) -> None:
        """Prepares the command; stdout and stderr of the processes go to files in `log_dir`."""
        self.path, self.env = path, env
        self.args = command(path, *OPTIONS, "--duration", f"{steps}st", *options)
        self.out, self.err = log_dir / f"{path.name}.out", log_dir / f"{path.name}.err"

    @contextlib.contextmanager
    def training(self, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A process that trains; killed at the end of the context. `options` are Popen's."""
        with self.out.open("wb") as out, self.err.open("wb") as err:
            child = subprocess.Popen(self.args, env=self.env, stdout=out, stderr=err, **options)
            try:
                yield child
            finally:
                child.kill()
                child.wait()

    def run_to_end(self) -> int:
        """Trains undisturbed and returns the exit code.

        Raises:
          RunTimeout: the process did not end within `LIMIT` seconds.
        """
        with self.training() as child:
            return self.wait(child)

    def wait_until(
        self, condition: Callable[[], object], child: subprocess.Popen[bytes], what: str
    ) -> bool:
        """Waits for a condition, called `what` in messages; False if the child ended before.

        Raises:
          RunTimeout: neither happened within `LIMIT` seconds.
        """
        end = time.monotonic() + LIMIT
        while not condition() and child.poll() is None:
            if time.monotonic() > end:
                raise self._timeout(what)
            time.sleep(0.0005)
        return child.poll() is None

    def wait(self, child: subprocess.Popen[bytes]) -> int:
        """Waits for the end of a process and returns its exit code.

        Raises:
          RunTimeout: the process did not end within `LIMIT` seconds.
        """
        try:
            return child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise self._timeout("end") from None

    def _timeout(self, what: str) -> RunTimeout:
        lines = self.out.read_text().splitlines() if self.out.exists() else []
        last = lines[-1] if lines else "(none)"
        return RunTimeout(f"{self.path}: no {what} within {LIMIT:g} s; its last line: {last}")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints: those that were renamed to their final names."""
        names = os.listdir(self.checkpoints) if self.checkpoints.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal())

    def checkpoint(self, step: int) -> CheckpointData | None:
        """The data of a checkpoint; None: it is damaged."""
        try:
            return read(self.checkpoints.resolve() / str(step))
        except CorruptCheckpoint:
            return None

    @property
    def started(self) -> bool:
        return b"first step after" in self.out.read_bytes()

    @property
    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        names = os.listdir(self.checkpoints) if self.checkpoints.is_dir() else []
        return any("orbax-checkpoint-tmp" in name for name in names)

    @property
    def evaluating(self) -> bool:
        """Whether an evaluation runs: its row in metrics.jsonl is due but missing."""
        try:
            with (self.path / "metrics.jsonl").open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 2048, 0))
                *lines, _ = file.read().split(b"\n")
        except OSError:
            return False
        row = json.loads(lines[-1]) if len(lines) > 1 else {"step": 1}
        return row["step"] % EVAL == 0 and row["split"] == "train"

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, without times."""
        lines = (self.path / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(s).items() if k not in TIMES} for s in lines]


def same_checkpoint(a: CheckpointData | None, b: CheckpointData | None) -> bool:
    """Whether two undamaged checkpoints agree in every bit of state, progress and metrics."""
    if a is None or b is None or a.arrays.keys() != b.arrays.keys():
        return False
    arrays = all(
        x.dtype == b.arrays[name].dtype and x.tobytes() == b.arrays[name].tobytes()
        for name, x in a.arrays.items()
    )
    return arrays and a.record == b.record


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "3m") -> Iterator[Path | None]:
    """A separate small file system; None if it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
