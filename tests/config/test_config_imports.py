"""Building a config, help and mistakes import no JAX."""

import os
import re
import subprocess
import sys

import pytest

from tests.config.test_config import ROOT

# --- what is imported ----------------------------------------------------------------------------

HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "cv2", "matplotlib", "sklearn"}
HEAVY |= {"tensorflow", "tensorflow_datasets", "tensorboardX"}


def python(*args: str) -> tuple[subprocess.CompletedProcess, set[str]]:
    """Runs `python ARGS`; also returns the top-level packages it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *args],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    names = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)
    return done, {name.partition(".")[0] for name in names}


def test_recipes_load_no_jax():
    code = "import train.config, train.recipes; train.recipes.all_recipes()"
    done, imported = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "train" in imported and imported & HEAVY == set()


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["train", "--help-all"]])
def test_help_loads_no_jax(args):
    """That is what would make it slow; seconds depend on the machine."""
    done, imported = python("-m", "train", *args)
    assert done.returncode == 0
    assert imported & HEAVY == set()
    assert "usage: resnet-jax" in done.stdout
    if "train" in args:
        assert "--optim.lr" in done.stdout and "--workdir" in done.stdout
    if "--help-all" in args:
        assert "Decay of the second moment" in done.stdout  # from the docstrings of the fields
        assert "Cardinality" in done.stdout or "cardinality" in done.stdout  # the spec's as well


@pytest.mark.parametrize(
    "args, message",
    [
        (["train", "digitz"], "'digitz'"),
        (["train", "digits", "--optim.lr", "-1"], "optim.lr -1.0: must be positive"),
    ],
)
def test_mistakes_are_reported_without_jax(args, message):
    done, imported = python("-m", "train", *args)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert imported & HEAVY == set()
