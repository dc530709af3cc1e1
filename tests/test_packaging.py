"""What is installed, and with which packages; `python .ci/wheel.py` builds and tries the wheel."""

import fnmatch
import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.runs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FILES = [
    path
    for name in ("resnet_jax", "train")
    for path in (ROOT / name).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
]


def test_every_folder_is_a_package():
    """Those without `__init__.py` would not be installed."""
    assert len({path.parent for path in FILES}) > 10
    assert [str(p) for p in {f.parent for f in FILES} if not (p / "__init__.py").exists()] == []


def test_every_data_file_is_installed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    data = [path.name for path in FILES if path.suffix != ".py"]
    assert {"py.typed", "networks.json", "imagenet_classes.txt"} <= set(data)
    lost = [name for name in data if not any(fnmatch.fnmatch(name, p) for p in patterns)]
    assert lost == []


def test_lowest_versions_are_those_of_every_dependency():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "lowest.py"], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.replace("==", ">=") for line in lines] == PROJECT["project"]["dependencies"]


@pytest.mark.parametrize("requirement", ["numpy", "numpy<3", "numpy==2.0.0"])
def test_a_dependency_needs_a_lower_bound(requirement):
    lowest = runpy.run_path(str(ROOT / ".ci" / "lowest.py"))["lowest"]
    assert lowest("numpy >=2.0.0, <3") == "numpy==2.0.0"
    with pytest.raises(SystemExit, match=r"needs one lower bound, NAME>=VERSION"):
        lowest(requirement)


def test_the_wheel_check_finds_what_is_missing(tmp_path):
    """And what is too much: it compares all files."""
    check = runpy.run_path(str(ROOT / ".ci" / "wheel.py"))["check_contents"]
    names = [path.relative_to(ROOT).as_posix() for path in FILES]
    wheel = tmp_path / "some.whl"

    def write(files: list[str]) -> Path:
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in (*files, "some.dist-info/licenses/LICENSE"):
                archive.writestr(name, "")
        return wheel

    check(write(names))
    with pytest.raises(SystemExit, match=r"missing \['train/cli/networks.json'\], unexpected \[\]"):
        check(write([name for name in names if name != "train/cli/networks.json"]))
    with pytest.raises(SystemExit, match=r"missing \[\], unexpected \['tests/__init__.py'\]"):
        check(write([*names, "tests/__init__.py"]))
