"""Imports go one way: the contracts in pyproject.toml, and that they would see a breach.

`lint-imports --no-cache` in the checkout is the same check.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT

pytest.importorskip("importlinter", reason="pip install -e '.[test]'")

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"

BREACHES = {
    ("train/config/base.py", "import train.run.fit"): "train.config.base -> train.run.fit",
    ("train/plan/chips.py", "from train.inference import predict"): (
        "train.plan.chips -> train.inference.predict"
    ),
    ("train/run/eta.py", "import train.cli.usage"): "train.run.eta -> train.cli.usage",
    ("train/run/eta.py", "import benchmarks.record"): "train.run.eta -> benchmarks.record",
    ("resnet_jax/spec.py", "import train.paths"): "resnet_jax.spec -> train.paths",
    ("resnet_jax/norm.py", "import resnet_jax.resnet"): "No cycles are allowed in resnet_jax",
    ("train/other/__init__.py", ""): "other",  # a wing without a place in the order
}


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Runs `lint-imports` on the packages in `root`."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {LINT}", "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def copy(folder: Path) -> Path:
    """The packages without what is not Python, and their contracts."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("resnet_jax", "train", "benchmarks"):
        for path in (ROOT / name).rglob("*.py"):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


def test_imports_go_one_way():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "Contracts: 3 kept, 0 broken." in done.stdout


@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: f"{breach[0]}: {breach[1]}")
def test_a_breach_is_found(breach, tmp_path):
    """Also inside a function."""
    file, line = breach
    target = copy(tmp_path) / file
    target.parent.mkdir(exist_ok=True)
    with target.open("a") as stream:
        stream.write(f"\n\ndef _breach() -> None:\n    {line or 'pass'}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout
    assert BREACHES[breach] in done.stdout
