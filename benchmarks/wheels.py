"""Collects wheels for `python -m benchmarks.h200` on a GPU machine without network access.

    python3.12 -m benchmarks.wheels FOLDER [--there NAME ... | --there FILE]

FOLDER receives a wheel of each required package that is missing on that machine. Run this with the
machine's Python version and processor architecture. `--there` lists the packages on the machine:
names, with versions if they matter, or the output file of `pip freeze`. docs/measure-gpu.md has the
commands.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
THERE = (
    *("jax==0.11.2", "flax", "optax", "orbax-checkpoint", "scikit-learn", "matplotlib"),
    *("opencv-python-headless", "pillow"),
)
EXTRA = ("pytest",)  # runs the first part
UNUSED = ("pyarrow",)  # 52 MiB: tensorflow-datasets requires it for formats that we do not read
LIMIT = 60
"""Maximum size of the folder in MiB."""


def normalised(name: str) -> str:
    """A package's normalised name (PEP 503).

    >>> normalised("orbax_Checkpoint")
    'orbax-checkpoint'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    """The requirements of the program, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *EXTRA]


def pip(*args: str) -> None:
    """Runs pip of this Python.

    Raises:
      SystemExit: pip failed; it printed the reason.
    """
    done = subprocess.run([sys.executable, "-m", "pip", *args, "--quiet"], check=False)
    if done.returncode:
        raise SystemExit(f"error: pip {args[0]} failed")


def resolved(wanted: Sequence[str]) -> dict[str, str]:
    """{name: version} of all packages that these requirements install."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("install", "--dry-run", "--ignore-installed", "--report", str(report), *wanted)
        found = json.loads(report.read_text())["install"]
    return {normalised(x["metadata"]["name"]): x["metadata"]["version"] for x in found}


def missing(wanted: dict[str, str], there: Sequence[str]) -> list[str]:
    """NAME==VERSION of the wanted packages that are neither installed nor unused.

    >>> missing({"grain": "0.2.18", "numpy": "2.5.2", "pyarrow": "26"}, ["NumPy"])
    ['grain==0.2.18']
    """
    have = {normalised(name) for name in (*there, *UNUSED)}
    return [f"{name}=={version}" for name, version in sorted(wanted.items()) if name not in have]


def names_there(there: Sequence[str]) -> tuple[list[str], list[str]]:
    """(requirements of installed packages, names of installed packages) of the machine.

    For a file, both are its lines. For names, their dependencies count as installed.
    """
    if len(there) == 1 and Path(there[0]).is_file():
        lines = [line.strip() for line in Path(there[0]).read_text().splitlines()]
        pinned = [line for line in lines if re.fullmatch(r"[\w.-]+==[\w.+-]+", line)]
        return pinned, [line.split("==")[0] for line in pinned]
    return list(there), list(resolved(there))


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--there", nargs="+", default=THERE, metavar="NAME")
    given = parser.parse_args(args)
    have, names = names_there(given.there)
    # The installed versions restrict the versions of the others
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(x for x in have if "==" in x))
        wanted = resolved(["--constraint", str(constraints), *requirements()])
    given.folder.mkdir(parents=True, exist_ok=True)
    pip("wheel", "--no-deps", "--wheel-dir", str(given.folder), *missing(wanted, names))
    wheels = sorted(given.folder.glob("*.whl"), key=lambda path: -path.stat().st_size)
    size = sum(path.stat().st_size for path in wheels) / 2**20
    for path in wheels[:3]:
        print(f"{path.stat().st_size / 2**20:6.1f} MiB  {path.name}")
    print(f"{size:6.1f} MiB  in {len(wheels)} wheels in {given.folder}")
    if size > LIMIT:
        raise SystemExit(f"error: {size:.1f} MiB are more than {LIMIT} MiB: see --there")


if __name__ == "__main__":
    main()
