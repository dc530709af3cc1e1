"""A tiny run for the tests of the loop, in this process or in one of its own."""

import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from train.config import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[1]
MODEL = ("--model.name", "resnet8_cifar", "--model.depths", "1", "1", "--model.width", "8")
TINY = (*MODEL, "--batch_size", "32", "--duration", "60st", "--log_every", "10st")
TINY += ("--eval.every", "20st", "--checkpoint.every", "5st", "--ema_decay", "0.9")
"""The same run on the command line."""


def tiny(**changes: object) -> RunConfig:
    """60 steps of a very small network on the digits."""
    config = RunConfig(
        recipe="digits",
        duration="60st",
        batch_size=32,
        precision="fp32",
        log_every="10st",
        model=ModelConfig(name="resnet8_cifar", depths=(1, 1), width=8),
        data=DataConfig(name="digits", image_size=8, mean=(0.305,), std=(0.376,), threads=0),
        augment=AugmentConfig(crop="pad", pad=1, flip=False),
        optim=OptimConfig(lr=0.2, lr_batch=32),
        eval=EvalConfig(every="20st", batch_size=128, crop_fraction=1.0),
        checkpoint=CheckpointConfig(every="5st"),
    )
    return replace(config, **changes)


def command(*args: str) -> list[str]:
    """The command line as a child process."""
    return [sys.executable, "-m", "train", *args]


def cache_folder() -> str:
    """For compiled programs: under HOME, or where HOME cannot be written, for temporary files."""
    with contextlib.suppress(OSError, RuntimeError):  # read-only; no home at all
        folder = Path("~/.cache/resnet-jax/tests").expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return str(folder)
    return str(Path(tempfile.gettempdir(), f"resnet-jax-tests-{os.getuid()}"))


def simulated(devices: int) -> str:
    """`XLA_FLAGS` for so many CPU devices; the user's other flags stay."""
    count = "--xla_force_host_platform_device_count"
    others = [x for x in os.environ.get("XLA_FLAGS", "").split() if not x.startswith(count)]
    return " ".join([f"{count}={devices}", *others])


def environment(devices: int = 1, **extra: str) -> dict[str, str]:
    """A child's: as many simulated devices, the tests' compilation cache, no terminal."""
    flags = {"XLA_FLAGS": simulated(devices)}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "", **flags, **extra}


def resnet_jax(*args: str, devices: int = 1) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    env = environment(devices)
    return subprocess.run(command(*args), capture_output=True, text=True, env=env, check=False)


def in_process(
    capsys: "pytest.CaptureFixture[str]", *args: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command in this process, which has imported everything and has eight devices."""
    from train.__main__ import main

    capsys.readouterr()
    code = main(args)
    return subprocess.CompletedProcess(args, code, *capsys.readouterr())
