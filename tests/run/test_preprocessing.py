"""train/run/preprocessing.py: a run prepares images as its initial weights expect."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnet_jax import Preprocessing
from tests.runs import MODEL, tiny
from train.__main__ import main
from train.checkpoint.weights import Card
from train.config import ConfigError, DataConfig, EvalConfig, InitConfig, RunConfig
from train.config.serialize import to_json
from train.inference.evaluate import evaluate_run
from train.recipes import get_recipe
from train.run.directory import read_config
from train.run.fit import fit
from train.run.preprocessing import adopt_preprocessing, of_run

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.26, 0.27)
VIEW = Preprocessing(size=176, crop_fraction=0.95, interpolation="bicubic", mean=MEAN, std=STD)
TIMM = {
    "architecture": "resnet18",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 176, 176],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": list(MEAN),
        "std": list(STD),
    },
}
EXPECT = "mean 0.5 0.4 0.3, std 0.25 0.26 0.27, crop_fraction 0.95, bicubic, images of 176 pixels"


def by_card(folder: Path, config: RunConfig) -> str:
    """Weights as `convert` leaves them."""
    Card(config.model, VIEW, ["a", "b"]).write(folder / "w.safetensors")
    return str(folder / "w.safetensors")


def by_timm(folder: Path, config: RunConfig) -> str:
    """A file of timm's with its config.json."""
    (folder / "config.json").write_text(json.dumps(TIMM))
    return str(folder / "model.safetensors")


def by_folder(folder: Path, config: RunConfig) -> str:
    by_timm(folder, config)
    (folder / "model.safetensors").touch()
    return str(folder)


def by_tag(folder: Path, config: RunConfig) -> str:
    (folder / "resnet18.a1").mkdir()
    by_timm(folder / "resnet18.a1", config)
    return "resnet18.a1"


def by_run(folder: Path, config: RunConfig) -> str:
    """A file in the directory of a run."""
    (folder / "checkpoints").mkdir()
    data = replace(config.data, image_size=176, mean=MEAN, std=STD)
    view = replace(config.eval, crop_fraction=0.95, interpolation="bicubic")
    content = to_json(replace(config, data=data, eval=view))
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder / "w.npz")


WAYS = {f.__name__: f for f in (by_card, by_timm, by_folder, by_tag, by_run)}


def starting(weights: str, config: RunConfig) -> RunConfig:
    return replace(config, init=InitConfig(weights=weights))


def preprocessing(config: RunConfig) -> tuple[Any, ...]:
    return config.data.mean, config.data.std, config.eval.crop_fraction, config.eval.interpolation


@pytest.mark.parametrize("recipe", ["folder", "digits", "cifar10-resnet20"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_beside_weights_is_taken_over(way, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_WEIGHTS", str(tmp_path))
    before = get_recipe(recipe)
    config = starting(WAYS[way](tmp_path, before), before)
    after, lines = adopt_preprocessing(config, tmp_path / "new", resumes=False)
    assert preprocessing(after) == (MEAN, STD, 0.95, "bicubic")
    assert after.data.image_size == before.data.image_size  # said, and not taken over
    assert lines[0] == f"weights expect {EXPECT}"
    size = before.data.image_size
    assert lines[1] == f"this run uses  {EXPECT.replace('176 pixels', f'{size} pixels')}"
    assert replace(after, data=config.data, eval=config.eval) == config


def test_what_a_person_set_stays(tmp_path):
    recipe = get_recipe("folder")
    weights = by_card(tmp_path, recipe)
    own = replace(recipe, data=replace(recipe.data, mean=(0.1,)))
    after, lines = adopt_preprocessing(starting(weights, own), tmp_path, resumes=False)
    assert preprocessing(after) == ((0.1,), STD, 0.95, "bicubic")
    assert lines[1].startswith("this run uses  mean 0.1, std 0.25 0.26 0.27, crop_fraction 0.95")


def test_an_option_on_the_command_line_stays_though_it_is_the_recipes(tmp_path):
    config = starting(by_card(tmp_path, get_recipe("folder")), get_recipe("folder"))
    after, _ = adopt_preprocessing(
        config, tmp_path, resumes=False, given={"data.mean", "eval.every"}
    )
    assert preprocessing(after) == (config.data.mean, STD, 0.95, "bicubic")


def test_nothing_is_written_beside_them(tmp_path):
    config = starting(str(tmp_path / "resnet50.pth"), get_recipe("digits"))
    after, lines = adopt_preprocessing(config, tmp_path, resumes=False)
    assert after == config
    assert lines[0].endswith("(usual for their name; no file beside them records it)")
    assert lines[1].startswith("this run uses  mean 0.305, std 0.376")


def test_no_weights(tmp_path):
    assert adopt_preprocessing(get_recipe("folder"), tmp_path, resumes=False) == (
        get_recipe("folder"),
        [],
    )


def test_what_cannot_be_read_is_an_error_unless_all_is_given(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    config = starting(str(tmp_path / "model.safetensors"), get_recipe("folder"))
    with pytest.raises(ConfigError) as caught:
        adopt_preprocessing(config, tmp_path / "new", resumes=False)
    options = "--data.mean, --data.std, --eval.crop_fraction, --eval.interpolation"
    assert "config.json: not the config.json of timm's weights" in str(caught.value)
    assert str(caught.value).endswith(f"To start without reading it, set {options}")
    given = {"data.mean", "data.std", "eval.crop_fraction", "eval.interpolation"}
    after, lines = adopt_preprocessing(config, tmp_path / "new", resumes=False, given=given)
    assert after == config and lines[0].endswith("all set by the user")


# A run to its end, a resume, an evaluation


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny network whose sidecar asks for other pixels than the digits' recipe."""
    folder = tmp_path_factory.mktemp("weights")
    short = tiny(duration="2st", eval=EvalConfig(every="2st", batch_size=128, crop_fraction=1.0))
    fit(short, folder / "run", quiet=True)
    assert main(["convert", str(folder / "run"), str(folder / "w.safetensors")]) == 0
    card = json.loads((folder / "w.json").read_text())
    card["preprocessing"] |= {"mean": [0.5], "std": [0.25], "crop_fraction": 0.8}
    (folder / "w.json").write_text(json.dumps(card))
    return folder / "w.safetensors"


SHORT = (*MODEL, "--batch_size", "32", "--log_every", "1st", "--eval.every", "2st")


def test_a_run_keeps_what_it_took_over(weights, tmp_path, capsys):
    """In its config.json: evaluation, a resume without the file and the same command agree."""
    file = tmp_path / "w.safetensors"
    file.write_bytes(weights.read_bytes())
    file.with_suffix(".json").write_bytes(weights.with_suffix(".json").read_bytes())
    run = ("train", "digits", "--workdir", str(tmp_path / "run"), *SHORT, "--duration", "2st")
    run += ("--init.weights", str(file))
    assert main(list(run)) == 0
    out = capsys.readouterr().out
    assert "weights expect mean 0.5, std 0.25, crop_fraction 0.8, bilinear, images of 8 p" in out
    assert "this run uses  mean 0.5, std 0.25, crop_fraction 0.8, bilinear, images of 8 p" in out
    stored = read_config(tmp_path / "run")
    assert preprocessing(stored) == ((0.5,), (0.25,), 0.8, "bilinear")
    file.unlink()
    file.with_suffix(".json").unlink()
    assert main(list(run)) == 0
    assert "all 2 steps are done" in capsys.readouterr().out
    assert read_config(tmp_path / "run") == stored
    assert main([*run, "--data.mean", "0.305"]) == 2
    assert "data.mean: [0.5] -> [0.305]" in capsys.readouterr().err
    # The sidecar of its own weights hands it on.
    assert of_run(stored).mean == (0.5,)
    assert evaluate_run(stored, tmp_path / "run", "best")["examples"] == 359


def test_the_pixels_are_those_that_the_weights_saw(weights, tmp_path, capsys):
    """The first step's loss with the mean of the file is not that with the recipe's."""
    losses = {}
    for name, more in (("taken", ()), ("own", ("--data.mean", "0.305", "--data.std", "0.376"))):
        workdir = tmp_path / name
        options = ("--workdir", str(workdir), *SHORT, "--duration", "1st", *more)
        given = ("--init.weights", str(weights), "--init.head", "keep")
        assert main(["train", "digits", *options, *given]) == 0
        rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        losses[name] = next(row["loss"] for row in rows if row["split"] == "train")
    assert abs(losses["taken"] - losses["own"]) > 1e-4


def test_python_may_leave_a_default(tmp_path, weights):
    """A config that names no recipe is compared with the defaults."""
    config = RunConfig(data=DataConfig(name="synthetic"), init=InitConfig(weights=str(weights)))
    after, _ = adopt_preprocessing(config, tmp_path, resumes=False)
    assert after.data.mean == (0.5,)
