"""Where a result comes from: versions, commit and command line."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that a result depends on; None: not installed."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "resnet-jax")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def command_line() -> str:
    """The command that this process runs, quoted for a shell; "" where it is no command of ours."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py" and program.parent.name == "train":
        return shlex.join(["python", "-m", "train", *sys.argv[1:]])
    return shlex.join(["resnet-jax", *sys.argv[1:]]) if program.name == "resnet-jax" else ""


def code_version() -> str | None:
    """The commit of this code, with "+" if files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(here), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
