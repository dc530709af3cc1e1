"""A tiny training in a process of its own, seen from outside: for what tries its faults."""

import contextlib
import json
import os
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
"""Seconds that a run may take to end, or to come to where it is waited for."""


class Overdue(subprocess.SubprocessError):
    """A run did not come within `LIMIT` to what was waited for."""


def command(workdir: Path, *options: str) -> list[str]:
    """The command line of the run, as a child process."""
    return [sys.executable, "-m", "train", "train", "digits", "--workdir", str(workdir), *options]


def environment(cache: Path) -> dict[str, str]:
    """A child's: one device, unbuffered words, a compilation cache of the campaign's own."""
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
    """A run's directory and the processes that train in it, seen from outside."""

    def __init__(
        self, path: Path, said: Path, env: dict[str, str], steps: int, *options: str
    ) -> None:
        """`said`: where what a process says goes."""
        self.path, self.env = path, env
        self.args = command(path, *OPTIONS, "--duration", f"{steps}st", *options)
        self.out, self.err = said / f"{path.name}.out", said / f"{path.name}.err"

    @contextlib.contextmanager
    def training(self, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A process that trains, killed if it is still there at the end; `options` of Popen."""
        with self.out.open("wb") as out, self.err.open("wb") as err:
            child = subprocess.Popen(self.args, env=self.env, stdout=out, stderr=err, **options)
            try:
                yield child
            finally:
                child.kill()
                child.wait()

    def to_the_end(self) -> int:
        """Trains undisturbed; the exit code.

        Raises:
          Overdue: as `ended` does.
        """
        with self.training() as child:
            return self.ended(child)

    def until(self, there: Callable[[], object], child: subprocess.Popen[bytes], what: str) -> bool:
        """Waits for `what`, which `there` shows; False if the child ended before.

        Raises:
          Overdue: neither came within `LIMIT`.
        """
        end = time.monotonic() + LIMIT
        while not there() and child.poll() is None:
            if time.monotonic() > end:
                raise self._overdue(what)
            time.sleep(0.0005)
        return child.poll() is None

    def ended(self, child: subprocess.Popen[bytes]) -> int:
        """The exit code of a process that ends by itself.

        Raises:
          Overdue: it did not within `LIMIT`.
        """
        try:
            return child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise self._overdue("end") from None

    def _overdue(self, what: str) -> Overdue:
        said = self.out.read_text().splitlines() if self.out.exists() else []
        last = said[-1] if said else "(none)"
        return Overdue(f"{self.path}: no {what} within {LIMIT:g} s; its last line: {last}")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def steps(self) -> list[int]:
        """Of the checkpoints that were renamed, so are said to be whole."""
        names = os.listdir(self.checkpoints) if self.checkpoints.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal())

    def content(self, step: int) -> CheckpointData | None:
        """None: it is not what was saved."""
        try:
            return read(self.checkpoints.resolve() / str(step))
        except CorruptCheckpoint:
            return None

    @property
    def started(self) -> bool:
        return b"first step after" in self.out.read_bytes()

    @property
    def writing(self) -> bool:
        """Whether there is a checkpoint that is not whole yet."""
        names = os.listdir(self.checkpoints) if self.checkpoints.is_dir() else []
        return any("orbax-checkpoint-tmp" in name for name in names)

    @property
    def evaluating(self) -> bool:
        """Whether the last row is a training's where an evaluation's has to follow."""
        try:
            with (self.path / "metrics.jsonl").open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 2048, 0))
                *lines, _ = file.read().split(b"\n")
        except OSError:
            return False
        row = json.loads(lines[-1]) if len(lines) > 1 else {"step": 1}
        return row["step"] % EVAL == 0 and row["split"] == "train"

    def rows(self) -> list[dict[str, Any]]:
        """metrics.jsonl without its times."""
        lines = (self.path / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(s).items() if k not in TIMES} for s in lines]


def same(a: CheckpointData | None, b: CheckpointData | None) -> bool:
    """Whether two checkpoints agree in every bit of state, progress and metrics."""
    if a is None or b is None or a.arrays.keys() != b.arrays.keys():
        return False
    arrays = all(
        x.dtype == b.arrays[name].dtype and x.tobytes() == b.arrays[name].tobytes()
        for name, x in a.arrays.items()
    )
    return arrays and a.record == b.record


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "3m") -> Iterator[Path | None]:
    """A file system of its own; None where it cannot be mounted."""
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
