"""`init`: runs that start from given weights."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax import save_weights
from tests.run.test_fit import stopping_at
from tests.runs import MODEL, tiny
from train.__main__ import main
from train.config import ConfigError, DataConfig, InitConfig, ModelConfig, RunConfig, RunError
from train.inference.evaluate import evaluate_run, read_weights
from train.learn.state import init_head, init_variables
from train.run.evaluate import evaluate
from train.run.fit import fit
from train.run.parts import Run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("trained")
    rarely = {
        "eval": replace(tiny().eval, every="300st"),
        "checkpoint": replace(tiny().checkpoint, every=""),
    }
    row = fit(tiny(duration="300st", **rarely), workdir, quiet=True)
    assert row["top1"] > 0.5
    return workdir


@pytest.fixture(scope="module")
def weights(trained: Path) -> Path:
    """Those of the trained run as a file: of the digits' ten classes."""
    file = trained / "model.safetensors"
    assert main(["convert", str(trained), str(file)]) == 0
    return file


def starting(weights: Path | str, head: str = "reset", **changes: object) -> RunConfig:
    return tiny(init=InitConfig(weights=str(weights), head=head), **changes)


def same(a: object, b: object) -> bool:
    """Bit for bit, and nothing missing."""
    equal = jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    return jax.tree.all(equal)


def test_kept_weights_are_those_of_the_file(trained, weights):
    config = starting(weights, "keep", ema_decay=0.9, seed=7)
    run = Run(config)
    state = run.new_state()
    given = read_weights(config, trained, "best").variables
    assert same(state.variables, given) and same(state.ema, given)
    row = evaluate_run(tiny(), trained, "best")
    metrics = evaluate(run, {"raw": state.variables}).metrics["raw"]
    assert metrics == {key: row[key] for key in metrics}


def test_a_reset_head_is_the_seeds_and_no_head_that_a_network_begins_with(trained, weights):
    """Else the backbone of a run of the same seed would meet the head that it was trained with."""
    given = read_weights(tiny(), trained, "best").variables
    heads = []
    for seed in (0, 7):
        run = Run(starting(weights, seed=seed))
        state = run.new_state()
        heads.append(np.asarray(state.params["head"]["kernel"]))
        assert same(run.new_state().params["head"], state.params["head"])
        fresh = init_variables(run.model, 8, seed)["params"]["head"]
        assert same(init_head(run.model, 8, seed), state.params["head"])
        # Of the same distribution, and independent of each other
        new, old = heads[-1].ravel(), np.asarray(fresh["kernel"]).ravel()
        assert new.std() == pytest.approx(old.std(), rel=0.25)
        assert abs(np.corrcoef(new, old)[0, 1]) < 4 / np.sqrt(new.size)
        assert not same(state.params["head"], given["params"]["head"])
        assert same(state.params["backbone"], given["params"]["backbone"])
        assert same(state.batch_stats, given["batch_stats"])
    assert abs(np.corrcoef(*(head.ravel() for head in heads))[0, 1]) < 4 / np.sqrt(heads[0].size)


def test_a_reset_head_knows_nothing(weights):
    """The backbone was trained with seed 0: a head of seed 0 is a guess, as any other."""
    top1 = [
        evaluate(run, {"raw": run.new_state().variables}).metrics["raw"]["top1"]
        for run in (Run(starting(weights, seed=seed)) for seed in (0, 7))
    ]
    assert max(top1) < 0.3, top1


def test_training_goes_on_from_there(weights, tmp_path):
    """The first step's loss is that of the file's weights, far below that of random ones."""
    first = {}
    options = {"duration": "1st", "log_every": "1st", "eval": replace(tiny().eval, every="1st")}
    for name, config in (("kept", starting(weights, "keep", **options)), ("new", tiny(**options))):
        fit(config, tmp_path / name, quiet=True)
        rows = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        first[name] = next(row["loss"] for row in rows if row["split"] == "train")
    assert first["kept"] < first["new"] - 0.3


def synthetic(classes: int) -> DataConfig:
    return DataConfig(name="synthetic", classes=classes, examples=40, image_size=8, threads=0)


def test_another_number_of_classes(weights):
    assert Run(starting(weights, data=synthetic(7))).new_state().params["head"]["bias"].shape == (
        7,
    )
    with pytest.raises(ConfigError, match=r"10 classes and the data 7; 'reset' initialises a new"):
        Run(starting(weights, "keep", data=synthetic(7))).new_state()


def test_published_weights_and_options_that_change_no_shape(tmp_path, monkeypatch):
    folder = tmp_path / "test_resnet.r160_in1k"
    folder.mkdir()
    config = {"num_classes": 1000, "pretrained_cfg": {"input_size": [3, 160, 160]}}
    (folder / "config.json").write_text(json.dumps(config))
    model = ModelConfig(name="test_resnet", drop_path=0.1)
    data = replace(synthetic(1000), image_size=32)
    before = Run(tiny(model=model, data=data, seed=3)).new_state().variables
    save_weights(before, folder / "model.safetensors", "test_resnet")
    monkeypatch.setenv("RESNET_JAX_WEIGHTS", str(tmp_path))
    config = starting("test_resnet.r160_in1k", "keep", model=model, data=data)
    assert same(Run(config).new_state().variables, before)
    fewer = replace(data, classes=7)
    config = starting("test_resnet.r160_in1k", model=model, data=fewer)
    after = Run(config).new_state()
    assert same(after.params["backbone"], before["params"]["backbone"])
    assert after.params["head"]["bias"].shape == (7,)


@pytest.mark.parametrize(
    "file, options, message",
    [
        ("missing.npz", (), "missing.npz: no such file"),
        ("{weights}", ("--model.width", "16"), "model.safetensors: not the weights of resnet8_cif"),
        (
            "{weights}",
            ("--data.name", "synthetic", "--init.head", "keep"),
            "the data 1000; 'reset'",
        ),
    ],
)
def test_bad_weights_are_one_message_before_anything_is_written(
    file, options, message, weights, tmp_path, capsys
):
    workdir = tmp_path / "run"
    given = ("--init.weights", file.format(weights=weights), *options)
    assert main(["train", "digits", "--workdir", str(workdir), *MODEL, *given]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and "Traceback" not in err
    assert not workdir.exists()


def test_a_resume_does_not_need_the_file(weights, tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    file.write_bytes(weights.read_bytes())
    config = starting(file, ema_decay=0.9, duration="20st")
    fit(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stopping_at(patch, 12, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 12 of 20, saved"):
            fit(config, tmp_path / "cut", quiet=True)
    file.unlink()
    fit(config, tmp_path / "cut", quiet=True)
    whole, cut = (
        read_weights(config, tmp_path / name, "last").variables for name in ("whole", "cut")
    )
    assert same(whole, cut)
    with pytest.raises(ConfigError, match="no such file"):  # and a new run does
        fit(config, tmp_path / "new", quiet=True)
