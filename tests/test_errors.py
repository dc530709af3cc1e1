"""Some cases of `benchmarks/errors.py`, whose table is in docs/faults.md, from end to end."""

import os
from pathlib import Path

import pytest

from benchmarks.desk import Desk
from benchmarks.errors import CASES

QUICK = (
    "sighup",
    "backslash",
    "newer_version",
    "large_batch",
    "other_options",
    "extend",
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("errors"), Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))


@pytest.mark.parametrize("name", QUICK)
def test_case(name, desk, tmp_path):
    desk.folder = tmp_path
    row = CASES[name](desk)
    assert row.line().count("|") == 6 and row.code in (0, 1, 2)
