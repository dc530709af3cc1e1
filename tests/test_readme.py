"""The README's Python runs as it stands."""

import re
from dataclasses import fields
from pathlib import Path

import jax
import numpy as np

import resnet_jax
from resnet_jax import from_tensors, load_weights, save_weights
from resnet_jax.weights.convert import torch_shapes
from tests.parity.fill import fill

ROOT = Path(__file__).parents[1]


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_examples_run():
    names: dict = {}
    model, _, step, batches = blocks()
    # The example's network is a large one; what is shown is the same on a small one.
    exec(model.replace("resnet50d", "resnet18d").replace("224, 224", "32, 32"), names)
    assert names["logits"].shape == (2, 10) and names["logits"].dtype == np.float32
    assert set(names["updates"]) == {"batch_stats"}
    names = {}  # the second one stands alone
    exec(step, names)
    assert names["sums"]["count"] == 16 and np.isfinite(names["sums"]["loss"])
    assert names["state"].step == 1
    assert jax.tree.leaves(names["state"].params)
    exec(batches, names)  # goes on
    assert names["sums"]["count"] == 16 and names["state"].step == 4


def test_example_on_weights_runs(tmp_path, monkeypatch):
    """On a small network, with files where the example has published ones."""
    name, folder = "test_resnet", tmp_path / "test_resnet.a1_in1k"
    tensors = {key: fill(key, shape) for key, shape in torch_shapes(name).items()}
    variables = from_tensors(tensors, name)
    folder.mkdir()
    save_weights(variables, folder / "model.safetensors", name)
    (folder / "config.json").write_text('{"input_size": [3, 160, 160], "num_classes": 1000}')
    monkeypatch.setenv("RESNET_JAX_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code = blocks()[1].replace("resnet50.pth", str(folder / "model.safetensors"))
    names: dict = {"resnet_jax": resnet_jax}
    exec(code.replace('"resnet50"', f'"{name}"'), names)
    assert names["preprocessing"].size == 160
    assert jax.tree.all(jax.tree.map(np.array_equal, names["variables"], variables))
    again = load_weights(tmp_path / "resnet50.safetensors", name)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


def test_commands_exist():
    """Every recipe and command that the README names is there."""
    from train.__main__ import COMMANDS
    from train.recipes import all_recipes

    text = (ROOT / "README.md").read_text()
    used = re.findall(r"resnet-jax (\w+)(?: ([a-z][\w-]+))?", text)
    assert {command for command, _ in used} <= set(COMMANDS)
    recipes = {name for command, name in used if command == "train" and name} - {"on"}
    assert {"folder", "digits"} <= recipes <= set(all_recipes())


def test_options_exist():
    from benchmarks.program import ProgramArgs
    from benchmarks.report import ReportArgs
    from benchmarks.step import StepArgs
    from train.cli.convert import ConvertArgs
    from train.cli.predict import PredictArgs
    from train.config import ModelConfig, RunConfig
    from train.config.serialize import flatten, to_json
    from train.plan.planner import PlanArgs

    text = (ROOT / "README.md").read_text()
    others = "xla_|dist "  # of XLA and of pytest
    options = set(re.findall(rf"--(?!{others})([a-z_][a-z_0-9-]*(?:\.[a-z_0-9]+)?)", text))
    options = {option.replace("-", "_") for option in options}
    known = set(flatten(to_json(RunConfig()))) | {
        "workdir",
        "checkpoint",
        "extend",
        "help",
        "help_all",
        "version",
    }
    commands: tuple = (PredictArgs, ConvertArgs, PlanArgs, StepArgs, ProgramArgs, ReportArgs)
    known |= {f.name for args in commands for f in fields(args)}
    known |= {f"model.{f.name}" for f in fields(ModelConfig)}
    assert len(options) > 30 and options <= known, options - known
