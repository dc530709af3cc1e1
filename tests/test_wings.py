"""The packages of `train`: their public names, their lists of modules, and what they import."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import train
from tests.config.test_config_imports import HEAVY, python

ROOT = Path(train.__file__).parent
WINGS = sorted(
    file.parent.relative_to(ROOT.parent).as_posix().replace("/", ".")
    for file in ROOT.rglob("*/__init__.py")
    if "lazy_names" in file.read_text() or "Modules:" in file.read_text()
)


def tree(wing: str) -> ast.Module:
    return ast.parse((ROOT.parent / wing.replace(".", "/") / "__init__.py").read_text())


def typed_names(wing: str) -> dict[str, str]:
    """Public name -> module, as type checkers and editors see it."""
    blocks = [node for node in tree(wing).body if isinstance(node, ast.If)]
    found = [each for block in blocks for each in block.body if isinstance(each, ast.ImportFrom)]
    return {name.name: str(each.module) for each in found for name in each.names}


def lazy_names(wing: str) -> dict[str, str]:
    """Public name -> module, as Python finds it."""
    for node in ast.walk(tree(wing)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_names":
            modules = ast.literal_eval(node.args[1])
            return {name: f"{wing}.{module}" for module in modules for name in modules[module]}
    return {}


def modules(wing: str) -> set[str]:
    folder = ROOT.parent / wing.replace(".", "/")
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return files | {path.parent.name for path in folder.glob("*/__init__.py")}


def test_there_are_wings():
    assert {"train.run", "train.learn", "train.data", "train.checkpoint"} <= set(WINGS)


@pytest.mark.parametrize("wing", WINGS)
def test_public_names(wing):
    """Each is found in the module that both lists name, and hides no module."""
    names = lazy_names(wing)
    assert names == typed_names(wing)
    assert not set(names) & modules(wing)
    package = importlib.import_module(wing)
    for name, module in names.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match=f"module '{wing}' has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("wing", WINGS)
def test_every_module_is_listed(wing):
    _, _, listed = (ast.get_docstring(tree(wing)) or "").partition("Modules:")
    lines = re.findall(r"^  ([\w, ]+): ", listed, re.MULTILINE)
    names = [name for line in lines for name in line.split(", ")]
    assert sorted(names) == sorted(modules(wing))


def test_importing_them_loads_no_jax():
    done, imported = python("-c", "import " + ", ".join(WINGS))
    assert done.returncode == 0, done.stderr
    assert "train" in imported and imported & HEAVY == set()
