"""XLA's flags: added, never replaced, and known to the XLA that is installed."""

import os
import subprocess
import sys

import pytest

from train import runtime
from train.runtime import set_xla_flags

OURS = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, OURS),
        ("--xla_dump_to=x", f"--xla_dump_to=x {OURS}"),
        ("--xla_cpu_experimental_ynn_fusion_type=", "--xla_cpu_experimental_ynn_fusion_type="),
        (OURS, OURS),
    ],
)
def test_a_users_own_flags_stay(given, wanted, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    set_xla_flags()
    assert os.environ["XLA_FLAGS"] == wanted


@pytest.mark.parametrize(("jaxlib", "known"), [("0.12.9", True), ("0.13.0", False)])
def test_an_xla_that_may_not_know_the_flag_is_not_given_it(jaxlib, known, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(runtime, "version", lambda _: jaxlib)
    set_xla_flags()
    assert ("XLA_FLAGS" in os.environ) == known


def test_the_installed_xla_knows_it():
    """It ends a process whose flags it does not know."""
    code = "import jax; print(jax.jit(lambda x: x + 1)(1))"
    env = {**os.environ, "XLA_FLAGS": OURS}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "2\n", done.stderr
