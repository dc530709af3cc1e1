"""The tests' own ground: where they run, on how many devices, with whose flags."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.runs import ROOT, cache_folder, environment, simulated

COUNT = "--xla_force_host_platform_device_count"


@pytest.fixture(scope="module")
def shared_folder() -> Path:
    return Path.cwd()


def test_a_test_has_an_empty_folder_outside_the_checkout(shared_folder):
    """`resnet-jax train` leaves runs/digits in the checkout, which is the default workdir."""
    for folder in (Path.cwd(), shared_folder):
        assert not list(folder.iterdir())
        assert not folder.is_relative_to(ROOT)
    assert Path.cwd() != shared_folder


def test_flags_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_cpu_max_isa=AVX2 {COUNT}=8 --xla_dump_to=x")
    assert simulated(2) == f"{COUNT}=2 --xla_cpu_max_isa=AVX2 --xla_dump_to=x"
    assert environment(3)["XLA_FLAGS"] == f"{COUNT}=3 --xla_cpu_max_isa=AVX2 --xla_dump_to=x"
    monkeypatch.delenv("XLA_FLAGS")
    assert simulated(8) == f"{COUNT}=8"


def test_the_compilation_cache_where_home_cannot_be_written(monkeypatch, tmp_path):
    """Then it is among the temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    there = str(tmp_path / f"resnet-jax-tests-{os.getuid()}")
    monkeypatch.setenv("HOME", "/dev/null")
    assert cache_folder() == there

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_folder() == there
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == str(tmp_path / ".cache/resnet-jax/tests")
