"""The public names of `resnet_jax`, and the modules that it imports."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_jax

PACKAGE = Path(resnet_jax.__file__).parent
ALLOWED = {"jax", "flax", "numpy", "resnet_jax"}


def modules_after(program: str) -> set[str]:
    """Names of all modules that a fresh interpreter holds after `program`, by what it prints."""
    code = f"import sys, json\n{program}\nprint(json.dumps(sorted(sys.modules)))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_all_names_resolve():
    assert sorted(resnet_jax.__all__) == [
        "BatchNorm",
        "Classifier",
        "Preprocessing",
        "ResNet",
        "ResNetSpec",
        "WeightsError",
        "create_model",
        "from_tensors",
        "get_spec",
        "list_models",
        "load_pretrained",
        "load_weights",
        "save_weights",
        "stack_blocks",
        "unstack_blocks",
    ]
    for name in resnet_jax.__all__:
        value = getattr(resnet_jax, name)
        assert value.__name__ == name and value.__module__.startswith("resnet_jax.")
        assert value.__doc__, name


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'resnet_jax' has no attribute 'resnet50'"):
        _ = resnet_jax.resnet50
    assert not hasattr(resnet_jax, "Backbone")


def test_names_and_specs_need_no_jax():
    program = (
        "import resnet_jax, resnet_jax.spec, resnet_jax.zoo\n"
        "assert 'resnet50' in resnet_jax.list_models()\n"
        "assert resnet_jax.get_spec('resnet50', width=32).width == 32\n"
        "assert resnet_jax.ResNetSpec(depths=(1,)).features == 256\n"
    )
    loaded = {name.split(".")[0] for name in modules_after(program)}
    assert "resnet_jax" in loaded
    assert loaded & {"jax", "jaxlib", "flax", "numpy", "optax", "train"} == set()


def test_modules_need_jax_and_flax_and_what_those_bring():
    names = [f"resnet_jax.{path.stem}" for path in PACKAGE.glob("[a-z]*.py")]
    assert len(names) >= 9
    program = (
        "import jax, jax.numpy, flax.linen\n"
        "before = set(sys.modules)\n"
        f"import {', '.join(names)}\n"
        "new = set(sys.modules) - before\n"
        "for name in before: del sys.modules[name]\n"
    )
    loaded = {name.split(".")[0] for name in modules_after(program)}
    assert "resnet_jax" in loaded
    assert loaded - ALLOWED - sys.stdlib_module_names == set()


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_imports_are_those_of_the_contract(path):
    """Also what jax and flax happen to bring along (optax, orbax, rich) is not ours to import.

    File formats of weights are imported where they are used, inside functions.
    """
    imported = set()
    tree = ast.parse(path.read_text("utf-8"))
    inside = {
        node for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)
    }
    allowed_inside = {"safetensors", "torch", "huggingface_hub"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = {str(node.module)}
        else:
            continue
        roots = {name.split(".")[0] for name in names}
        imported |= roots - allowed_inside if node in inside else roots
    assert imported - ALLOWED - sys.stdlib_module_names == set()
