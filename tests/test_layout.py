"""Sizes that keep the code easy to read: lines of files and of functions."""

import ast
from pathlib import Path

import pytest

from tests.runs import ROOT

CODE = [
    path for name in ("resnet_jax", "train", "benchmarks") for path in (ROOT / name).rglob("*.py")
]
TESTS = list((ROOT / "tests").rglob("*.py"))


def too_long(paths: list[Path], most: int) -> dict[str, int]:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in paths}
    return {name: lines for name, lines in lengths.items() if lines > most}


def long_functions(paths: list[Path], most: int = 60) -> dict[str, int]:
    found = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > most:
                    found[f"{path.relative_to(ROOT)}:{node.name}"] = lines
    return found


def test_no_file_is_too_long():
    assert len(CODE) > 150 and too_long(CODE, 300) == {}
    assert len(TESTS) > 100 and too_long(TESTS, 400) == {}


def test_no_function_is_too_long():
    assert long_functions(CODE) == {}


@pytest.mark.parametrize("lines, found", [(60, []), (61, ["f"])])
def test_a_long_function_is_found(lines, found, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_layout.ROOT", tmp_path)
    (tmp_path / "a.py").write_text("def f():\n" + "    pass\n" * (lines - 1))
    assert [name.split(":")[1] for name in long_functions([tmp_path / "a.py"])] == found
    assert too_long([tmp_path / "a.py"], 60) == ({"a.py": 61} if lines > 60 else {})
