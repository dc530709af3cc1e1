"""`data.mean` measure and image, `data.whiten`: the numbers, and a run that keeps them."""

import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax import Preprocessing
from tests.run.test_fit import content, stopping_at
from tests.runs import MODEL, tiny
from train.__main__ import main
from train.checkpoint.weights import Card, read_card
from train.config import ConfigError, DataConfig, EvalConfig, RunConfig, RunError
from train.config.serialize import differences
from train.data.readers import EvalReader
from train.data.sources import ArraySource, Splits
from train.data.statistics import sample
from train.distributed.processes import Processes
from train.inference.evaluate import evaluate_run, read_weights
from train.run.directory import read_config, read_record, write_record
from train.run.evaluate import evaluate
from train.run.fit import fit
from train.run.parts import Run
from train.run.pixels import FILE, load, measured, use_stand_in
from train.run.preprocessing import recorded_preprocessing
from train.run.resume import resumed_config


def config(**changes: object) -> RunConfig:
    """A tiny run with other options of its data."""
    base = tiny(duration="4st", log_every="1st", eval=EvalConfig(every="2st", batch_size=128))
    return replace(base, data=replace(base.data, **changes))


def splits(*sides: int, count: int = 40) -> Splits:
    """Noise, in which every channel has its own range and pixels depend on their neighbours."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 200, (count, *sides)) // np.arange(1, sides[-1] + 1)
    images = (noise + np.roll(noise, 1, 1) // 4).astype(np.uint8)
    source = ArraySource(images, np.arange(count) % 2, ["a", "b"], "train")
    return Splits(source, source)


def views(run: Run) -> np.ndarray:
    """float64 [N, H, W, C]: the evaluation views of the training images, scaled to 0..1."""
    reader = EvalReader(run.splits.train, run.config.data, run.config.eval)
    images = [run.splits.train[i].image for i in range(len(run.splits.train))]
    return np.stack([reader.transform(image) for image in images]) / 255


def prepared(run: Run) -> np.ndarray:
    """What the network sees of these views."""
    run.use(*measured(run))
    images = jnp.asarray(np.rint(views(run) * 255), jnp.uint8)
    labels = jnp.zeros(len(images), jnp.int32)
    return np.asarray(run.prepare({"image": images, "label": labels}, train=False)["image"])


# --- The numbers ---------------------------------------------------------------------------------


def test_mean_and_std_are_numpys():
    run = Run(config(image_size=4, mean="measure"), splits=splits(6, 5, 3))
    found, normalisation = measured(run)
    pixels = views(run)
    np.testing.assert_allclose(found.data.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.data.std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert normalisation == (found.data.mean, found.data.std, None)
    white = prepared(run)
    np.testing.assert_allclose(white.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(white.std((0, 1, 2)), 1, atol=1e-6)


def test_std_1_subtracts_the_mean_alone():
    run = Run(config(image_size=4, mean="measure", std=(1.0,)), splits=splits(4, 4, 3))
    pixels = views(run)
    np.testing.assert_allclose(prepared(run), pixels - pixels.mean((0, 1, 2)), atol=1e-6)
    assert run.config.data.std == (1.0,)


def test_a_mean_image():
    run = Run(config(image_size=4, mean="image", std=(0.5,)), splits=splits(4, 4, 3))
    pixels = views(run)
    np.testing.assert_allclose(prepared(run), (pixels - pixels.mean(0)) / 0.5, atol=1e-6)
    assert run.config.data.mean == "image"


@pytest.mark.parametrize("kind", ["pca", "zca"])
@pytest.mark.parametrize("sides", [(3, 3, 3), (4, 4, 1)])
def test_whitened_training_images_have_the_identity_as_covariance(kind, sides):
    data = {"image_size": sides[0], "whiten": kind, "whiten_epsilon": 1e-12}
    run = Run(config(**data), splits=splits(*sides, count=60))
    white = prepared(run)
    if sides[-1] == 1:
        np.testing.assert_array_equal(white[..., 0], white[..., 2])
    flat = white[..., : sides[-1]].reshape(60, -1).astype(np.float64)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(flat.T), np.eye(flat.shape[1]), atol=1e-4)


def test_a_large_split_is_sampled_evenly():
    assert sample(50_000, 32).tolist() == list(range(50_000))
    assert len(sample(60_000, 64)) == 50_000 and len(sample(60_000, 65)) == 10_000
    chosen = sample(1_281_167, 224)
    assert np.unique(np.diff(chosen)).tolist() == [128, 129] and chosen[0] == 0


class Gathered(Processes):
    """One of two processes, which knows what the other one will say."""

    count = 2

    def __init__(self, index: int, said: list[Any]) -> None:
        self.index, self.said = index, said

    def gather(self, value: Any) -> list[Any]:
        self.said[self.index] = json.loads(json.dumps(value))
        return self.said if None not in self.said else [value]


def test_two_processes_share_the_images_and_agree():
    run = Run(config(image_size=4, mean="measure"), splits=splits(4, 4, 3, count=41))
    alone, _ = measured(run)
    said: list[Any] = [None, None]
    for index in (0, 1):
        half, _ = measured(run, processes=Gathered(index, said))
    assert half == alone  # the last one heard both
    assert said[0] != said[1] and [x[0][0] for x in said] == [21 * 16, 20 * 16]


# --- A run ---------------------------------------------------------------------------------------

WAYS = {
    "measure": {"mean": "measure"},
    "zca": {"whiten": "zca", "whiten_epsilon": 0.01},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_resumes_bit_for_bit_and_measures_once(way, tmp_path, monkeypatch):
    given, whole, cut = config(**WAYS[way]), tmp_path / "whole", tmp_path / "cut"
    row = fit(given, whole, quiet=True)
    with monkeypatch.context() as patch:
        stopping_at(patch, 3, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 3 of 4, saved"):
            fit(given, cut, quiet=True)
    monkeypatch.setattr("train.run.pixels.sum_images", None)
    fit(given, cut, quiet=True)
    assert content(whole) == content(cut)
    stored = read_config(whole)
    assert (stored.data.mean == "measure", (whole / FILE).exists()) == (False, way != "measure")
    assert read_record(whole)["measured"] == given.data.measured_name
    assert evaluate_run(stored, whole, "best") == row
    if way == "zca":
        _predict_agrees(stored, whole, tmp_path)


def _predict_agrees(stored: RunConfig, whole: Path, folder: Path) -> None:
    """`predict` gives the classes of the evaluation, from the run and from its weights."""
    run = Run(stored)
    run.use(stored, load(whole / FILE, stored.data))
    named = {"best": read_weights(stored, whole, "best").variables}
    values = evaluate(run, named, per_example=True).examples.values
    files = [folder / f"{i}.png" for i in range(6)]
    for file, example in zip(files, run.splits.eval, strict=False):
        Image.fromarray(example.image[..., 0]).save(file)
    weights = folder / "w.safetensors"
    assert main(["convert", str(whole), str(weights)]) == 0
    for where in ((str(whole),), ("resnet8_cifar", "--weights", str(weights))):
        table = folder / "p.csv"
        names = [where[0], *map(str, files), *where[1:], "--csv", str(table)]
        assert main(["predict", *names]) == 0
        best = [line.split(",") for line in table.read_text().splitlines()]
        best = [line for line in best if line[1] == "1"]
        assert [int(line[2]) for line in best] == values["prediction"][:6].tolist()
        found = [float(line[3]) for line in best]
        np.testing.assert_allclose(found, values["confidence"][:6], atol=2e-6)


def test_a_measured_run_is_another_run_than_one_with_given_numbers(tmp_path, capsys):
    """The same command resumes it, and other options are named."""
    options = ("train", "digits", *MODEL, "--duration", "1st", "--workdir", str(tmp_path))
    assert main([*options, "--data.mean", "measure"]) == 0
    out = capsys.readouterr().out
    assert "measuring mean and std on 1,438 training images" in out
    assert re.search(r"mean 0\.30\d+, std 0\.37\d+ \(measured\)", out)
    stored = read_config(tmp_path)
    asked = replace(stored, data=replace(stored.data, mean="measure", std=(0.376,)))
    assert resumed_config(tmp_path, asked) == stored
    centred = replace(asked, data=replace(asked.data, std=(1.0,)))
    assert differences(stored, resumed_config(tmp_path, centred)) == [
        f"data.std: [{stored.data.std[0]}] -> [1.0]"
    ]
    record = read_record(tmp_path)
    del record["measured"]
    write_record(tmp_path, record)
    found = differences(stored, resumed_config(tmp_path, asked))
    assert found[0].startswith("data.mean: [0.30") and found[0].endswith("] -> 'measure'")


@pytest.mark.parametrize("way", [*WAYS, "image"])
def test_plan_compiles_with_arrays_of_the_same_shapes(way):
    """It reads no image."""
    given = config(**WAYS.get(way, {"mean": "image"}))
    planned, real = Run(given), Run(given)
    use_stand_in(planned)
    real.use(*measured(real))
    shapes = [[np.shape(x) for x in run.normalisation if x is not None] for run in (planned, real)]
    assert shapes[0] == shapes[1]


# --- What is refused -----------------------------------------------------------------------------


def test_images_that_are_too_large_to_whiten(tmp_path):
    large = config(name="synthetic", image_size=40, whiten="zca", examples=64, classes=2)
    with pytest.raises(ConfigError, match=r"40x40x3 have 4,800 values, .* 0\.2 GiB; at most 4,096"):
        fit(large, tmp_path, quiet=True)


def test_images_of_one_value(tmp_path):
    flat = ArraySource(np.full((9, 4, 4, 1), 7, np.uint8), np.zeros(9, int), ["a"], "train")
    run = Run(config(image_size=4, mean="measure"), splits=Splits(flat, flat))
    with pytest.raises(ConfigError, match="so its standard deviation is 0; give"):
        measured(run)


def test_the_file_of_a_run(tmp_path):
    data = DataConfig(image_size=8, mean="image")
    with pytest.raises(ConfigError, match=r"preprocessing\.npz: is missing; it has the mean image"):
        load(tmp_path / FILE, data)
    (tmp_path / FILE).write_bytes(b"PK no zip")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / FILE, data)
    np.savez(tmp_path / FILE, mean=np.zeros((4, 4, 1), np.float32))
    with pytest.raises(ConfigError, match=r"data.image_size 8: the mean image .* of 4x4 pixels"):
        load(tmp_path / FILE, data)
    with pytest.raises(ConfigError, match=r"data\.mean measure: only training measures it"):
        load(tmp_path / FILE, replace(data, mean="measure"))


def test_a_run_cannot_start_from_weights_for_other_images(tmp_path):
    card = Card(config().model, Preprocessing(), ["a"], {"data.whiten": "pca"})
    card.write(tmp_path / "w.npz")
    assert read_card(tmp_path / "w.npz") == card
    with pytest.raises(ConfigError, match=r"images with data\.whiten pca, and a run measures"):
        recorded_preprocessing(tmp_path / "w.npz", "resnet8_cifar")
