"""Weights on the command line: `predict` with them, `convert`, and their mistakes."""

import csv
import json
import os
import pickle
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax import create_model, load_weights, save_weights
from tests.runs import ROOT, tiny
from train.__main__ import main
from train.data.images.crops import eval_image
from train.inference.evaluate import read_weights
from train.learn.model import make_model
from train.run.directory import read_config
from train.run.fit import fit
from train.run.preprocessing import find_preprocessing, of_run

IMAGENET = "test_resnet"  # small, and of 1000 classes
CIFAR = "resnet8_cifar"
CLASSES = {IMAGENET: 1000, CIFAR: 7}


def random_variables(name: str, num_classes: int, size: int) -> dict:
    """No value is 0 or 1, so that exchanged tensors would be noticed."""
    model = create_model(name, num_classes)
    variables = model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False)
    rng = np.random.default_rng(0)

    def noise(x: jax.Array) -> np.ndarray:
        return np.float32(0.02) * rng.standard_normal(x.shape, np.float32)

    return jax.tree.map(lambda x: x + noise(x), variables)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of both networks, in torch's names and in ours, and three images."""
    folder = tmp_path_factory.mktemp("weights")
    for name, size in ((IMAGENET, 64), (CIFAR, 32)):
        variables = random_variables(name, CLASSES[name], size)
        for suffix in ("safetensors", "npz"):
            save_weights(variables, folder / f"{name}.{suffix}", name)
    rng = np.random.default_rng(1)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose network is narrower than the network of its name."""
    workdir = tmp_path_factory.mktemp("run")
    fit(tiny(duration="20st", ema_decay=0.9), workdir, quiet=True)
    return workdir


def output(capsys, *args: object) -> str:
    """What a command prints; it must end well."""
    assert main([str(arg) for arg in args]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"(wrote \d+ rows to .*\n)?", err)
    return out


def guesses(table: Path) -> dict[str, list[tuple[str, float]]]:
    """The rows of the CSV file by image."""
    found: dict[str, list[tuple[str, float]]] = {}
    with table.open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["image"], []).append((row["class"], float(row["probability"])))
    return found


def expected(folder: Path, name: str, classes: int, image: str, **view) -> list[tuple[int, float]]:
    """Label and probability of the five most probable classes, computed from the parts."""
    variables = load_weights(folder / f"{name}.npz", name, classes)
    defaults = {"size": 224, "crop": 0.875, "mean": (0.485, 0.456, 0.406)}
    view = {**defaults, "std": (0.229, 0.224, 0.225), "interpolation": "bilinear", **view}
    pixels = eval_image(
        Path(image).read_bytes(),
        view["size"],
        view["crop"],
        max_pixels=10**6,
        interpolation=view["interpolation"],
    )
    normal = (pixels / 255 - np.array(view["mean"])) / np.array(view["std"])
    model = create_model(name, classes)
    logits = model.apply(variables, jnp.asarray(normal[None], jnp.float32), train=False)[0]
    p = np.asarray(jax.nn.softmax(logits))
    return [(int(i), float(p[i])) for i in np.argsort(-p, kind="stable")[:5]]


# --- predict -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_predict_prints_the_probabilities_of_the_network(folder, tmp_path, capsys, suffix):
    images = [str(folder / f"{i}.png") for i in range(3)]
    weights, table = folder / f"{IMAGENET}.{suffix}", tmp_path / "table.csv"
    size = ("--data.image_size", 64)  # the default is the network's own
    text = output(capsys, "predict", IMAGENET, *images, "--weights", weights, "--csv", table, *size)
    assert text.startswith("images: 64 pixels, crop_fraction 0.875, bilinear, mean 0.485, 0.456")
    names = (ROOT / "train" / "cli" / "imagenet_classes.txt").read_text().splitlines()
    assert len(set(names)) == 1000 and names[0] == "tench" and names[999] == "toilet tissue"
    found = guesses(table)
    assert list(found) == images
    for image in images:
        wanted = expected(folder, IMAGENET, 1000, image, size=64)
        assert [name for name, _ in found[image]] == [names[i] for i, _ in wanted]
        np.testing.assert_allclose(
            [p for _, p in found[image]], [p for _, p in wanted], rtol=1e-3, atol=1e-6
        )
    assert text.count("%") == 15


def test_the_command_line_overrides_the_preprocessing(folder, tmp_path, capsys):
    image, table = str(folder / "0.png"), tmp_path / "table.csv"
    view = {"size": 32, "crop": 0.8, "mean": (0.5,), "std": (0.25,), "interpolation": "bicubic"}
    options = ("--data.image_size", 32, "--data.mean", 0.5, "--data.std=0.25")
    options += ("--eval.crop-fraction", 0.8, "--eval.interpolation", "bicubic", "--csv", table)
    weights = folder / f"{CIFAR}.npz"
    text = output(capsys, "predict", CIFAR, image, "--weights", weights, *options)
    assert text.startswith("images: 32 pixels, crop_fraction 0.8, bicubic, mean 0.5, std 0.25\n")
    wanted = expected(folder, CIFAR, 7, image, **view)
    assert [name for name, _ in guesses(table)[image]] == [f"class {i}" for i, _ in wanted]
    np.testing.assert_allclose(
        [p for _, p in guesses(table)[image]], [p for _, p in wanted], rtol=1e-3, atol=1e-6
    )


def test_class_names_from_a_file(folder, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefg") + "\n\n")
    table = tmp_path / "table.csv"
    options = ("--weights", folder / f"{CIFAR}.npz", "--classes", names, "--csv", table)
    output(capsys, "predict", CIFAR, folder / "0.png", *options)
    wanted = expected(folder, CIFAR, 7, str(folder / "0.png"), size=32, crop=1.0)
    found = guesses(table)[str(folder / "0.png")]
    assert [name for name, _ in found] == ["abcdefg"[i] for i, _ in wanted]


def test_bf16_is_near_and_not_the_same(folder, tmp_path, capsys):
    found = {}
    for precision in ("fp32", "bf16"):
        table = tmp_path / f"{precision}.csv"
        options = ("--weights", folder / f"{CIFAR}.npz", "--precision", precision, "--csv", table)
        output(capsys, "predict", CIFAR, folder / "0.png", *options)
        found[precision] = dict(guesses(table)[str(folder / "0.png")])
    assert found["fp32"] != found["bf16"]
    best = max(found["fp32"], key=found["fp32"].__getitem__)
    assert found["bf16"][best] == pytest.approx(found["fp32"][best], abs=0.1)


TIMM = {
    "architecture": IMAGENET,
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 64, 64],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}
SEEN = "images: 64 pixels, crop_fraction 0.95, bicubic, mean 0.5, 0.5, 0.5, std 0.25, 0.25, 0.25\n"


def test_published_weights_come_with_their_preprocessing(folder, tmp_path, capsys, monkeypatch):
    """By NAME.TAG, and as a file with timm's config.json beside it: the same."""
    own = tmp_path / f"{IMAGENET}.r160_in1k"
    own.mkdir()
    weights = own / "model.safetensors"
    weights.write_bytes((folder / f"{IMAGENET}.safetensors").read_bytes())
    (own / "config.json").write_text(json.dumps(TIMM))
    monkeypatch.setenv("RESNET_JAX_WEIGHTS", str(tmp_path))
    image = folder / "0.png"
    by_tag = output(capsys, "predict", f"{IMAGENET}.r160_in1k", image)
    assert by_tag.startswith(SEEN)
    assert output(capsys, "predict", IMAGENET, image, "--weights", weights) == by_tag


def test_weights_in_a_run_directory_see_what_the_run_saw(run, folder, capsys):
    weights = run / "model.npz"
    output(capsys, "convert", run, weights)
    # the narrow network has no name; this test is about its preprocessing
    assert find_preprocessing(weights, CIFAR) == of_run(read_config(run))
    assert of_run(read_config(run)).size == 8 and of_run(read_config(run)).mean == (0.305,)


# --- convert -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, tensors, parameters", [(IMAGENET, 77, 469_688), (CIFAR, 37, 75_095)]
)
def test_there_and_back_is_bit_identical(folder, tmp_path, capsys, name, tensors, parameters):
    for there, back in (("npz", "safetensors"), ("safetensors", "npz")):
        source = folder / f"{name}.{there}"
        middle, end = tmp_path / f"middle.{back}", tmp_path / f"end.{there}"
        text = output(capsys, "convert", source, middle, "--model", name)
        size = middle.stat().st_size
        assert text == f"{middle}: {tensors} tensors, {parameters:,} parameters, {size:,} bytes\n"
        output(capsys, "convert", middle, end, "--model", name)
        classes = CLASSES[name]
        before, after = (load_weights(file, name, classes) for file in (source, end))
        assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), before, after))
        assert len(jax.tree.leaves(after)) == tensors


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_run_converted_gives_the_same_logits(run, tmp_path, capsys, suffix):
    config, target = read_config(run), tmp_path / f"model.{suffix}"
    target.write_text("what is there already is replaced")
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    model = make_model(config, 10)
    for which in ("best", "last"):
        output(capsys, "convert", run, target, "--checkpoint", which)
        loaded = load_weights(target, config.model.name, 10, **config.model.changes)
        trained = jax.device_get(read_weights(config, run, which).variables)
        ours, theirs = (model.apply(v, images, train=False) for v in (loaded, trained))
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_what_leaves_a_run_is_predicted_as_the_run_predicts(run, tmp_path, capsys):
    """Its narrower network, its preprocessing and its class names travel in a .json beside it."""
    image, tables = tmp_path / "image.png", [tmp_path / f"{i}.csv" for i in range(3)]
    pixels = np.random.default_rng(0).integers(0, 256, (11, 9), np.uint8)
    Image.fromarray(pixels).save(image)
    first, second = tmp_path / "model.safetensors", tmp_path / "again.npz"
    assert str(tmp_path / "model.json") in output(capsys, "convert", run, first)
    output(capsys, "convert", first, second)
    output(capsys, "predict", run, image, "--csv", tables[0])
    for file, table in zip((first, second), tables[1:], strict=True):
        output(capsys, "predict", CIFAR, image, "--weights", file, "--csv", table)
        assert table.read_text() == tables[0].read_text()
    assert main(["predict", IMAGENET, str(image), "--weights", str(first)]) == 2
    assert f"the weights of a {CIFAR}" in capsys.readouterr().err
    (tmp_path / "again.json").write_text('{"model": {"name": "resnet51"}}')
    assert main(["predict", CIFAR, str(image), "--weights", str(second)]) == 2
    assert "again.json: not a file that convert writes" in capsys.readouterr().err


def test_a_folder_as_the_hub_leaves_it(folder, tmp_path, capsys, monkeypatch):
    """NAME.TAG/model.safetensors in the current directory, or given as --weights."""
    here = tmp_path / f"{IMAGENET}.mine"
    here.mkdir()
    weights = (folder / f"{IMAGENET}.safetensors").read_bytes()
    (here / "model.safetensors").write_bytes(weights)
    cfg = {"architecture": IMAGENET, "num_classes": 1000, "pretrained_cfg": {"crop_pct": 0.95}}
    cfg["pretrained_cfg"]["input_size"] = [3, 64, 64]
    (here / "config.json").write_text(json.dumps(cfg))
    monkeypatch.chdir(tmp_path)
    image = folder / "0.png"
    lines = [
        output(capsys, "predict", f"{IMAGENET}.mine", image),
        output(capsys, "predict", IMAGENET, image, "--weights", here),
    ]
    assert lines[0] == lines[1] and lines[0].startswith("images: 64 pixels, crop_fraction 0.95")
    assert main(["convert", str(here), "x.npz"]) == 2
    assert "is a folder of timm weights, not a run directory" in capsys.readouterr().err


def test_a_file_in_the_home_directory(folder, tmp_path, capsys, monkeypatch):
    """`~` that the shell left: in `--weights=~/...`, in a script, in quotes."""
    (tmp_path / "w.npz").write_bytes((folder / f"{CIFAR}.npz").read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    image = folder / "0.png"
    options = ("--weights=~/w.npz", "--csv=~/t.csv")
    output(capsys, "predict", CIFAR, image, *options)
    assert list(guesses(tmp_path / "t.csv")) == [str(image)]
    output(capsys, "convert", "~/w.npz", "~/w.safetensors", "--model", CIFAR)
    assert (tmp_path / "w.safetensors").is_file()
    monkeypatch.setenv("HOME", "")
    for args in (("predict", CIFAR, str(image), "--weights=~/w.npz"), ("convert", "~/w.npz", "x")):
        assert main(list(args)) == 2
        assert "'~/w.npz': the home directory is not known" in capsys.readouterr().err


# --- mistakes ------------------------------------------------------------------------------------

ERRORS = {
    "no weights": (["predict", CIFAR, "0.png"], "network without weights.*--weights.*a1_in1k"),
    "not finite": (
        ["predict", CIFAR, "0.png", "--weights", "nan.npz"],
        "nan.npz: params/backbone/stem_conv1/kernel is not finite",
    ),
    "misspelt": (
        ["predict", "resnet5O", "0.png", "--weights", "{cifar}"],
        "'resnet5O' is neither a run directory nor a network; did you mean .*resnet50",
    ),
    "no source": (["convert", "runs/x", "y.npz"], "runs/x: no such file or run directory"),
    "two patterns": (["models", "resnet50*", "wide*"], "models takes one pattern, not 2"),
    "too small an image": (
        ["train", "digits", "--model.name", "lenet5", "--workdir", "w"],
        r"lenet5 at data.image_size 8: LeNet-5 needs images of 32x32 or more",
    ),
    "no image": (["predict", CIFAR, "--weights", "{cifar}"], "no image given"),
    "no such file": (["predict", CIFAR, "0.png", "--weights", "x.npz"], "x.npz: no such file"),
    "no such torch file": (["predict", CIFAR, "0.png", "--weights", "x.pth"], "x.pth: no such"),
    "no weights inside": (["predict", CIFAR, "0.png", "--weights", "0.png"], "0.png: "),
    "unsafe": (
        ["predict", CIFAR, "0.png", "--weights", "unsafe.pth"],
        "unsafe.pth: .*os.system|posix",
    ),
    "another network": (
        ["predict", "resnet14_cifar", "0.png", "--weights", "{cifar}"],
        "cifar.npz: not the weights of resnet14_cifar",
    ),
    "names": (
        ["predict", CIFAR, "0.png", "--weights", "{cifar}", "--classes", "names.txt"],
        "names.txt: 2 names for 7 classes",
    ),
    "no such names": (
        ["predict", CIFAR, "0.png", "--weights", "{cifar}", "--classes", "x.txt"],
        "x.txt: No such file",
    ),
    "names in no text": (
        ["predict", CIFAR, "0.png", "--weights", "{cifar}", "--classes", "0.png"],
        "0.png: not a text file in UTF-8",
    ),
    "crop": (
        ["predict", CIFAR, "0.png", "--weights", "{cifar}", "--eval.crop_fraction", "1.5"],
        r"eval.crop_fraction 1.5: must be in \(0, 1\]",
    ),
    "csv": (
        ["predict", CIFAR, "0.png", "--weights", "{cifar}", "--csv", "x/y.csv"],
        "x/y.csv: No such file",
    ),
    "not timm's config": (
        ["predict", CIFAR, "0.png", "--weights", "mine/model.npz"],
        "mine/config.json: not the config.json of timm's weights",
    ),
    "no such tag": (["predict", "resnet50.x1", "0.png"], "timm/resnet50.x1 cannot be fetched"),
    "weights twice": (
        ["predict", "resnet50.x1", "0.png", "--weights", "{cifar}"],
        "--weights .*: 'resnet50.x1' already names its weights",
    ),
    "one name": (["convert", "{cifar}"], "convert takes two names, not 1"),
    "no name": (["convert"], "SRC.* is missing"),
    "no model": (["convert", "{cifar}", "y.npz"], "--model is missing"),
    "unknown model": (["convert", "{cifar}", "y.npz", "--model", "resnet51"], "unknown model"),
    "itself": (
        ["convert", "{cifar}", "{cifar}", "--model", CIFAR],
        "SRC and DST are the same file",
    ),
    "suffix": (["convert", "{cifar}", "y.pth", "--model", CIFAR], "y.pth: choose from .*npz"),
    "no folder": (
        ["convert", "{cifar}", "no/y.npz", "--model", CIFAR],
        "directory no does not exist",
    ),
    "a folder": (["convert", "{cifar}", "dir.npz", "--model", CIFAR], "dir.npz: Is a directory"),
    "convert misfit": (
        ["convert", "{cifar}", "y.npz", "--model", IMAGENET],
        f"cifar.npz: not the weights of {IMAGENET}",
    ),
    "no run": (["convert", "dir.npz", "y.npz"], "'dir.npz' is not a run directory"),
    "run of another": (["convert", "{run}", "y.npz", "--model", IMAGENET], "is of a resnet8_cifar"),
    "no checkpoint": (["convert", "{run}", "y.npz", "--checkpoint", "7"], "checkpoint '7': choose"),
}


class Unsafe:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_message_and_exit_code_2(case, folder, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_WEIGHTS", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # not installed: no network access
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0.png").write_bytes((folder / "0.png").read_bytes())
    (tmp_path / "names.txt").write_text("a\nb\n")
    (tmp_path / "dir.npz").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.npz").write_bytes((folder / f"{CIFAR}.npz").read_bytes())
    (tmp_path / "mine" / "config.json").write_text('{"model": "mine"}')
    tensors = dict(np.load(folder / f"{CIFAR}.npz"))
    tensors["params/backbone/stem_conv1/kernel"][0] = np.nan
    np.savez(tmp_path / "nan.npz", **tensors)
    (tmp_path / "unsafe.pth").write_bytes(pickle.dumps({"a": Unsafe()}))
    args, message = ERRORS[case]
    files = {"cifar": folder / f"{CIFAR}.npz", "run": run}
    before = files["cifar"].read_bytes()
    assert main([arg.format(**files) for arg in args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "Traceback" not in err
    assert re.search(message, err), err
    assert files["cifar"].read_bytes() == before and not (tmp_path / "y.npz").exists()
