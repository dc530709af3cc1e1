"""What a run says before it compiles: one screen, with numbers that can be checked."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import train.run.start_screen
from tests.runs import tiny
from train.config import (
    AugmentConfig,
    ConfigError,
    DataConfig,
    InitConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from train.data.sources import ArraySource, FolderSource, Splits
from train.run.checks import check_parts, find_warnings
from train.run.directory import newest_checkpoint
from train.run.fit import fit
from train.run.parts import Run
from train.run.start_screen import describe_run, unused_accelerator


def arrays(counts: dict[str, int], channels: int = 3) -> ArraySource:
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    images = np.zeros((len(labels), 8, 8, channels), np.uint8)
    return ArraySource(images, labels, list(counts), "train")


def said(config: RunConfig, splits: Splits, checkpoint: int | None = None) -> dict[str, str]:
    """Label -> text."""
    lines = describe_run(Run(config, splits=splits), Path("runs/x"), checkpoint)
    return {line[:10].strip(): line[11:] for line in lines}


def test_the_whole_screen():
    photos = arrays({"cat": 90, "dog": 60})
    config = tiny(
        batch_size=64,
        data=DataConfig(name="npz", dir="pets.npz", image_size=8),
        optim=OptimConfig(lr=0.1, lr_batch=256, warmup="10%", weight_decay=0.0),
        augment=AugmentConfig(crop="random_resized"),
        ema_decay=0.9,
    )
    found = said(config, Splits(photos, arrays({"cat": 20, "dog": 10})))
    cores = found["devices"].partition("(")[2].partition(" ")[0]
    assert found == {
        "data": "npz in pets.npz: 150 images to train on, 30 to evaluate on, RGB",
        "classes": "2: cat (90), dog (60)",
        "images": "8x8, random crops, mirrored at random, evaluated at crop_fraction 1; "
        "mean 0.485 0.456 0.406, std 0.229 0.224 0.225",
        "network": "resnet8_cifar (depths 1 1, width 8), 4,970 parameters, "
        "averaged with ema_decay 0.9",
        "weights": "random, seed 0",
        "optimiser": "sgd, lr 0.1 x 64/256 = 0.025, cosine, warm-up 10%",
        "duration": "60st: 60 steps of 64 images, 25.60 epochs; evaluated every 20 steps and at "
        "the end",
        "devices": f"8 x cpu ({cores} cores), fp32",
        "workdir": "runs/x, new",
    }
    assert int(cores) >= 1


def test_augmentation_is_named_with_its_values(monkeypatch):
    splits = Splits(arrays({"a": 9}), arrays({"a": 9}))
    augment = AugmentConfig(crop="pad", pad=1, policy="ta_wide", jitter=(0.4, 0.0, 0.0, 0.0))
    monkeypatch.setattr(train.run.start_screen, "why_on_host", lambda *args: "augment.x is")
    assert said(tiny(augment=augment), splits)["images"] == (
        "8x8, cropped after a padding of 1, mirrored at random, policy ta_wide, jitter 0.4 0.0 "
        "0.0 0.0, evaluated at crop_fraction 1; mean 0.305, std 0.376; data.resident is off: "
        "augment.x is"
    )
    augment = AugmentConfig(scale=(9, 12), flip=False, vertical_flip=True)
    assert said(tiny(augment=augment), splits)["images"].startswith(
        "8x8, random crops at a short side of 9 to 12, vertical flip True, evaluated"
    )


@pytest.mark.parametrize(
    "option, warned",
    [
        ({"jitter": (0.4, 0.4, 0.4, 0.0)}, "augment.jitter's saturation and hue"),
        ({"grey": 0.5}, "augment.grey"),
        ({"lighting": 0.1}, "augment.lighting"),
        ({"jitter": (0.4, 0.4, 0.0, 0.0)}, ""),
    ],
)
def test_grey_images_have_no_colours(option, warned):
    for channels, expected in ((1, warned), (3, "")):
        splits = Splits(*[arrays({"a": 9}, channels)] * 2)
        run = Run(tiny(augment=AugmentConfig(crop="pad", **option)), splits=splits)
        found = [w for w in find_warnings(run, trains=True) if "augment." in w]
        assert found == [f"{expected}: no effect, the images are grey"] * bool(expected)


def test_the_fill_of_grey_images_has_one_value():
    splits = Splits(*[arrays({"a": 9}, 1)] * 2)
    augment = AugmentConfig(crop="pad", rotate=9.0, fill=(1, 2, 3))
    with pytest.raises(ConfigError, match=r"augment.fill \(1, 2, 3\): needs one value, because"):
        check_parts(Run(tiny(augment=augment, batch_size=8), splits=splits))


def test_parameters_are_those_of_the_state():
    import jax

    run = Run(tiny())
    assert run.parameters == sum(x.size for x in jax.tree.leaves(run.new_state().params))


def test_a_size_that_the_network_cannot_take_is_bad_input():
    config = tiny(model=ModelConfig(name="lenet5"))
    with pytest.raises(ConfigError, match=r"lenet5 at data.image_size 8: "):
        describe_run(Run(config), Path("x"), None)


def test_a_duration_says_what_it_comes_to():
    config = tiny(batch_size=64, duration="10ep", eval=replace(tiny().eval, every="99ep"))
    splits = Splits(arrays({"a": 60, "b": 60}), arrays({"a": 1}))
    text = said(config, splits)["duration"]
    assert text == "10ep: 19 steps of 64 images, 10.13 epochs; evaluated at the end"


def test_a_short_warmup_and_a_floor_are_shown():
    splits = Splits(arrays({"a": 60, "b": 60}), arrays({"a": 1}))
    optim = OptimConfig(lr=0.3, lr_batch=0, warmup="0.5ep", floor=0.01, weight_decay=0.0)
    assert said(tiny(optim=optim), splits)["optimiser"] == (
        "sgd, lr 0.3, cosine to 0.01, warm-up 0.5ep"
    )


def test_rate_as_it_is():
    splits = Splits(arrays({"a": 60}), arrays({"a": 1}))
    for optim in (OptimConfig(lr=0.3, lr_batch=0), OptimConfig(lr=0.3, lr_batch=32)):
        text = said(tiny(optim=optim), splits)["optimiser"]
        assert text == "sgd, lr 0.3, cosine, weight decay 0.0001"


def test_the_step_schedule_has_its_milestones():
    splits = Splits(arrays({"a": 60}), arrays({"a": 1}))
    optim = OptimConfig(lr=0.3, lr_batch=0, schedule="step", milestones=("30ep", "75%"))
    text = said(tiny(optim=optim), splits)["optimiser"]
    assert text == "sgd, lr 0.3, step (x 0.1 at 30ep, 75%), weight decay 0.0001"


def test_many_classes_are_summed_up():
    names = {f"c{i}": 10 + i for i in range(12)}
    splits = Splits(arrays(names), arrays({"c0": 1}))
    assert said(tiny(), splits)["classes"] == "12: 10 (c0) to 21 (c11) training images each"


def test_folders_have_counts_and_other_sources_names(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(3)]
    folder = FolderSource(tmp_path, files, [0, 1, 1], ["cat", "dog"])
    assert said(tiny(), Splits(folder, folder))["classes"] == "2: cat (1), dog (2)"
    synthetic = tiny(data=replace(tiny().data, name="synthetic", classes=12))
    run = Run(synthetic)
    lines = describe_run(run, tmp_path, None)
    assert lines[1] == "classes    12: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."


def test_weights_and_resumes():
    splits = Splits(arrays({"a": 60}), arrays({"a": 1}))
    init = tiny(init=InitConfig(weights="resnet50.pth"))
    assert said(init, splits)["weights"] == "resnet50.pth, a new classifier"
    keep = tiny(init=InitConfig(weights="resnet50.pth", head="keep"))
    assert said(keep, splits)["weights"] == "resnet50.pth, with its classifier"
    found = said(init, splits, checkpoint=1250)
    assert found["weights"] == "from the checkpoint"
    assert found["workdir"] == "runs/x, resumes from the checkpoint of step 1,250"


def test_the_newest_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for name in ("9", "100", "200.corrupt", "best"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_checkpoint(tmp_path) == 100


def machine(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_a_gpu_that_is_not_used_is_reported(tmp_path, monkeypatch):
    gpu = machine(tmp_path / "gpu", "dev/nvidia0", "dev/nvidiactl")
    wsl = machine(tmp_path / "other", "proc/driver/nvidia/version")
    tpu = machine(tmp_path / "tpu", "dev/accel0")
    none = machine(tmp_path / "none", "dev/nvidia-caps", "dev/null")
    monkeypatch.setattr(train.run.start_screen, "_has", lambda package: False)
    for root in (gpu, wsl):
        assert unused_accelerator("cpu", {}, root) == (
            "this machine has an NVIDIA GPU, but JAX runs on the CPU; install JAX for it: "
            "pip install -e '.[cuda]'"
        )
    assert "has a TPU, but JAX runs on the CPU" in str(unused_accelerator("cpu", {}, tpu))
    assert unused_accelerator("cpu", {}, none) is None
    assert unused_accelerator("gpu", {}, gpu) is None  # it is used
    for asked in ({"JAX_PLATFORMS": "cpu"}, {"CUDA_VISIBLE_DEVICES": ""}):
        assert unused_accelerator("cpu", asked, gpu) is None
    monkeypatch.setattr(train.run.start_screen, "_has", lambda package: "cuda13" in package)
    assert "jax-cuda13-plugin is installed, but finds no usable GPU" in str(
        unused_accelerator("cpu", {}, gpu)
    )


def test_it_comes_before_anything_is_compiled(tmp_path, monkeypatch, capsys):
    """And a GPU left idle is a warning on stderr."""
    monkeypatch.setattr(train.run.start_screen, "unused_accelerator", lambda *_: "a GPU is idle")

    class Stopped(Exception):
        pass

    def new_state(self, **_):
        raise Stopped

    monkeypatch.setattr(Run, "new_state", new_state)
    with pytest.raises(Stopped):
        fit(tiny(), tmp_path / "run")
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("data       digits: 1,438 images to train on, 359 to ")
    assert out.splitlines()[-1] == f"workdir    {tmp_path / 'run'}, new"
    assert err == "warning: a GPU is idle\n"
    with pytest.raises(Stopped):
        fit(tiny(), tmp_path / "run", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_network_without_batchnorm_has_no_precise_statistics():
    config = tiny()
    config = replace(config, eval=replace(config.eval, precise_bn=3))
    group = replace(config, model=replace(config.model, norm="group", norm_groups=4))
    assert "with BatchNorm statistics of 3 batches" in screen_of(config)
    assert "BatchNorm" not in screen_of(group)


def screen_of(config: RunConfig) -> str:
    return "\n".join(describe_run(Run(config), Path("x"), None))
