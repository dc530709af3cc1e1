"""Rows of results: one JSON object per line, with hardware, versions and flags."""

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "libtpu", "jax-cuda13-plugin"),
    *("dm-haiku", "jax-resnet", "keras", "torch", "torchvision"),
)
FLAGS = (
    *("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS", "XLA_PYTHON_CLIENT_MEM_FRACTION"),
    *("JAX_COMPILATION_CACHE_DIR", "GLIBC_TUNABLES", "OMP_NUM_THREADS"),
)


def environment() -> Row:
    """Host, versions, flags and commit of a measurement, without using a device."""
    # processes of loaders may have another Python, without train
    from train.run.provenance import PROGRAM, code_version, package_version

    return {
        "host": f"{os.cpu_count()} cores, {_processor()}",
        "host_cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {PROGRAM: package_version(PROGRAM), **versions(PACKAGES)},
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
        "commit": code_version(),
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum to three digits, and the number of values.

    >>> spread([2.0, 1.0, 4.0])
    {'median': 2.0, 'min': 1.0, 'max': 4.0, 'n': 3}
    """
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {**{name: float(f"{value:.3g}") for name, value in found.items()}, "n": len(values)}


def at_least_one(text: str) -> int:
    """A positive number from a command line (the `type` of an `argparse` option)."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, and is {value}")
    return value


_PATHS = ("--out", "--workdir", "--hlo", "--trace", "--plot", "--peer_python")


def command(name: str, args: Sequence[str]) -> str:
    """The command line of a row, without paths of this machine.

    >>> command("step", ["resnet18,32,64", "--out", "x.jsonl", "--precision", "fp32"])
    'resnet-jax bench step resnet18,32,64 --precision fp32'
    """
    words = [word for word in args if not word.startswith(tuple(f"{x}=" for x in _PATHS))]
    for option in _PATHS:
        while option in words:
            at = words.index(option)
            del words[at : at + 2]
    return shlex.join(["resnet-jax", "bench", name, *words])


def emit(row: Row, out: Path | None) -> None:
    """Prints a row and appends it to the file `out`."""
    line = json.dumps(row)
    print(line, flush=True)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a") as file:
            file.write(line + "\n")
