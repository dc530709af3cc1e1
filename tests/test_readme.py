"""The Python of the README and of the site runs as it stands, on smaller networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax
from resnet_jax import from_tensors, load_weights, save_weights
from resnet_jax.weights.convert import torch_shapes
from tests.documents import PAGES, blocks
from tests.parity.fill import fill
from tests.runs import ROOT, tiny

README, API, WEIGHTS, TRANSFER, MODELS, ARCHITECTURE = (
    ROOT / page
    for page in (
        "README.md",
        "docs/python.md",
        "docs/weights.md",
        "docs/transfer.md",
        "docs/models.md",
        "docs/architecture.md",
    )
)


def python(page) -> list[str]:
    return blocks(page, "python")


def small(code: str) -> str:
    """The same on a small network and on small images."""
    return code.replace("resnet50d", "resnet18d").replace("224, 224", "32, 32")


def test_there_are_no_others():
    """But for the scripts of docs/trials.md, which show why something was not done."""
    found = {page: len(python(page)) for page in PAGES if python(page) and page.name != "trials.md"}
    assert found == {README: 1, API: 6, WEIGHTS: 1, TRANSFER: 1, MODELS: 1, ARCHITECTURE: 1}


def test_a_network():
    names: dict = {}
    exec(small(python(README)[0]), names)
    assert names["logits"].shape == (2, 10) and names["logits"].dtype == np.float32
    assert set(names["updates"]) == {"batch_stats"}


def test_a_backbone():
    names: dict = {}
    exec(small(python(API)[0]), names)
    shapes = {level: x.shape for level, x in names["features"].items()}
    assert shapes == {f"c{i}": (2, 32 >> i, 32 >> i, c) for i, c in SIZES.items()}


SIZES = {1: 64, 2: 64, 3: 128, 4: 256, 5: 512}


def test_the_step_and_batches():
    _, _, step, batches, *_ = python(API)
    names: dict = {}  # the second one stands alone
    exec(step, names)
    assert names["sums"]["count"] == 16 and np.isfinite(names["sums"]["loss"])
    assert names["state"].step == 1
    assert jax.tree.leaves(names["state"].params)
    exec(batches, names)  # goes on
    assert names["sums"]["count"] == 16 and names["state"].step == 4


def test_rates_of_layers():
    """What is multiplied is one stage; the rest has the rate of the schedule."""
    names: dict = {}
    exec(python(ARCHITECTURE)[0], names)
    grads = {"backbone": {stage: {"kernel": jnp.ones(2)} for stage in ("stage1", "stage2")}}
    updates, _ = names["slow_start"].update(grads, names["slow_start"].init(grads), grads)
    found = {name: float(tree["kernel"][0]) for name, tree in updates["backbone"].items()}
    assert found == {"stage1": pytest.approx(0.1), "stage2": 1.0}


def test_a_whole_run(tmp_path):
    code = python(API)[4].replace('get_recipe("digits")', "tiny()").replace("1ep", "20st")
    exec(code, {"tiny": tiny})  # in an empty folder
    names = {path.name for path in (tmp_path.cwd() / "runs" / "from_python").iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "report"} <= names


def test_flags():
    exec(python(API)[5], {})


def test_an_option_of_a_network():
    names: dict = {}
    exec(python(MODELS)[0], names)
    assert names["model"].backbone.spec.output_stride == 8


def test_weights(tmp_path, monkeypatch):
    """With files where the example has published ones."""
    name, folder = "test_resnet", tmp_path / "test_resnet.a1_in1k"
    tensors = {key: fill(key, shape) for key, shape in torch_shapes(name).items()}
    variables = from_tensors(tensors, name)
    folder.mkdir()
    save_weights(variables, folder / "model.safetensors", name)
    (folder / "config.json").write_text('{"input_size": [3, 160, 160], "num_classes": 1000}')
    monkeypatch.setenv("RESNET_JAX_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(code: str) -> dict:
        names: dict = {"resnet_jax": resnet_jax}
        code = code.replace("resnet50.pth", str(folder / "model.safetensors"))
        exec(code.replace('"resnet50"', f'"{name}"'), names)
        return names

    assert python(API)[1] == python(WEIGHTS)[0]
    names = run(python(API)[1])
    assert names["preprocessing"].size == 160
    assert jax.tree.all(jax.tree.map(np.array_equal, names["variables"], variables))
    again = load_weights(tmp_path / "resnet50.safetensors", name)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))
    new_head = run(python(TRANSFER)[0])["variables"]["params"]
    assert new_head["head"]["bias"].shape == (10,)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, new_head["backbone"], variables["params"]["backbone"])
    )
