"""Provenance of a result: devices, versions, commit and command line."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from resnet_jax import __version__

PROGRAM = "resnet-jax"
"""The name of this program in records and messages; its distribution has another one."""


def provenance() -> dict[str, Any]:
    """Devices, commit, command and versions of packages: what produces the results."""
    import jax  # reading a config imports no JAX

    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "commit": code_version(),
        "command": command_line(),
        "versions": versions(),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that compute a result; None: not installed."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", PROGRAM)
    found = {name: package_version(name) for name in names}
    return {"python": platform.python_version(), **found}


def package_version(package: str) -> str | None:
    """Version of an installed package, or of this program. None: not installed."""
    if package == PROGRAM:  # known without its metadata: a checkout need not be installed
        return __version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def command_line() -> str:
    """The `resnet-jax` command of this process, quoted for a shell; "" in other programs."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py" and program.parent.name == "train":
        return shlex.join(["python", "-m", "train", *sys.argv[1:]])
    return shlex.join(["resnet-jax", *sys.argv[1:]]) if program.name == "resnet-jax" else ""


def code_version() -> str | None:
    """The commit of this code, with "+" if files were changed since; None outside a checkout."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(here), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
