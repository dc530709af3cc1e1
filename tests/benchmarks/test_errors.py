"""Some cases of `benchmarks/faults/errors.py`, whose table is in docs/faults.md."""

import os
from pathlib import Path

import pytest

from benchmarks.faults.errors import CASES
from benchmarks.faults.harness import Harness
from tests.runs import ROOT

TABLE = (ROOT / "docs" / "faults.md").read_text("utf-8").splitlines()
QUICK = (
    "sighup",
    "backslash",
    "newer_version",
    "large_batch",
    "other_options",
    "extend",
)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return Harness(tmp_path_factory.mktemp("errors"), Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))


@pytest.mark.parametrize("name", QUICK)
def test_case(name, harness, tmp_path):
    harness.folder = tmp_path
    row = CASES[name](harness)
    documented = [line.split("|") for line in TABLE if line.startswith(f"| {row.fault} |")]
    assert [int(cells[3]) for cells in documented] == [row.code]
