"""Options without effect are reported: the conditions cover all options, and are correct."""

from dataclasses import replace
from pathlib import Path

import pytest

import train.run.fit
from tests.cli.test_options import CHANGES
from tests.observations import batch, changed, names, objective, together, updates
from tests.runs import tiny
from train.__main__ import main
from train.cli.choose_recipe import choose, take_recipe
from train.cli.options import options
from train.config import ConfigError, RunConfig
from train.config.conditions import ALWAYS, CONDITIONS
from train.config.effects import (
    PREDICTION,
    accepted_by_eval,
    check_applicable,
    check_effects,
    without_effect,
)
from train.config.serialize import flatten, to_json
from train.recipes import all_recipes

CONDITIONAL = {name for condition in CONDITIONS for name in condition.options}
PHOTOS = {"data.name": "folder", "data.dir": "photos"}

# For each conditional option: changes with which it has no effect, and with which it has one.
CASES: dict[str, tuple[dict, dict]] = {
    "data.dir": ({}, {"data.name": "npz"}),
    "data.examples": ({}, {"data.name": "synthetic"}),
    "data.classes": (PHOTOS, {"data.name": "synthetic"}),
    "data.eval_fraction": ({"data.name": "synthetic"}, {}),
    "data.split_seed": ({"data.name": "npz", "data.dir": "x"}, PHOTOS),
    "data.held_out": ({"data.name": "cifar10"}, PHOTOS),
    "data.listing": ({}, PHOTOS),
    "data.image_key": (PHOTOS, {"data.name": "cifar10"}),
    "data.label_key": ({}, {"data.name": "cifar10"}),
    "data.multi_label": (
        {"loss.name": "bce"},
        {"loss.name": "bce", "data.name": "npz", "data.dir": "x"},
    ),
    "data.remap_labels": ({}, {"data.name": "npz", "data.dir": "x"}),
    "data.train_split": ({}, PHOTOS),
    "data.eval_split": ({"data.name": "synthetic"}, {"data.name": "cifar10"}),
    "data.test_split": ({"data.name": "synthetic"}, {"data.name": "npz", "data.dir": "x"}),
    "data.mean": ({"data.whiten": "pca"}, {"data.std": (1.0,)}),
    "data.std": ({"data.mean": "measure"}, {"data.mean": "image"}),
    "data.whiten_epsilon": ({}, {"data.whiten": "zca"}),
    "data.on_bad_image": ({}, PHOTOS),
    "data.max_pixels": ({}, PHOTOS),
    "data.max_image_bytes": ({}, PHOTOS),
    "data.decoder": ({}, PHOTOS),
    "data.retries": ({}, PHOTOS),
    "data.prefetch": ({"data.threads": 0}, {"data.threads": 2}),
    "init.head": ({}, {"init.weights": "a.npz"}),
    "augment.area": ({}, {"augment.crop": "random_resized"}),
    "augment.aspect": ({"augment.crop": "none"}, {"augment.crop": "random_resized"}),
    "augment.pad": ({"augment.crop": "random_resized"}, {}),
    "augment.pad_mode": ({"augment.scale": (9, 12)}, {}),
    "augment.crop": ({"augment.scale": (9, 12)}, {}),
    "augment.fill": ({}, {"augment.rotate": 10.0}),
    "augment.blur_sigma": ({}, {"augment.blur": 0.5}),
    "mix.label_smoothing": (
        {"loss.name": "bce", "loss.threshold": 0.2},
        {"loss.name": "bce", "loss.threshold": 0.2, "mix.mixup": 0.2},
    ),
    "augment.size_ramp": ({}, {"augment.size_start": 4}),
    "augment.size_step": ({}, {"augment.size_start": 4}),
    "mix.smooth_over": ({}, {"mix.label_smoothing": 0.1}),
    "mix.probability": ({}, {"mix.mixup": 0.2}),
    "mix.per": ({}, {"mix.cutmix": 1.0}),
    "mix.off": ({}, {"mix.mixup": 0.2}),
    "mix.switch": ({"mix.cutmix": 1.0}, {"mix.cutmix": 1.0, "mix.mixup": 0.2}),
    "mix.erasing_area": ({}, {"mix.erasing": 0.5}),
    "mix.erasing_aspect": ({}, {"mix.erasing": 0.5}),
    "mix.erasing_fill": ({}, {"mix.erasing": 0.5}),
    "loss.threshold": ({}, {"loss.name": "bce"}),
    "loss.reduction": ({"loss.name": "focal"}, {"loss.name": "bce"}),
    "loss.gamma": ({}, {"loss.name": "focal"}),
    "loss.l1_on": ({"loss.l2": 0.1}, {"loss.l1": 0.1}),
    "loss.l2_on": ({"loss.l1": 0.1}, {"loss.l2": 0.1}),
    "ema_every": ({}, {"swa_start": "50%"}),
    "ema_decay": ({"swa_start": "50%"}, {}),
    "ema_rule": ({}, {"ema_decay": 0.9}),
    "optim.nesterov": ({"optim.momentum": 0.0}, {}),
    "optim.beta2": ({}, {"optim.name": "adamw"}),
    "optim.epsilon": ({}, {"optim.name": "adamw"}),
    "optim.milestones": ({}, {"optim.schedule": "step"}),
    "optim.gamma": ({"optim.schedule": "constant"}, {"optim.schedule": "step"}),
    "optim.power": ({}, {"optim.schedule": "polynomial"}),
    "optim.floor": ({"optim.schedule": "constant"}, {}),
    "optim.hold": (
        {"optim.schedule": "constant", "optim.floor": 0.01},
        {"optim.floor": 0.01},
    ),
    "optim.cycle": ({"optim.floor": 0.01}, {"optim.hold": "50%", "optim.floor": 0.01}),
    "optim.cycle_lr": ({"optim.floor": 0.01}, {"optim.cycle": "4st"}),
    "optim.scaling": ({"optim.lr_batch": 0}, {}),
    "optim.trust": ({}, {"optim.name": "lars"}),
    "optim.decay": ({"optim.name": "lamb"}, {}),
    "optim.decay_mask": ({"optim.weight_decay": 0.0}, {}),
    "norm_group_size": ({"model.norm": "group", "model.norm_groups": 4}, {}),
    "model.norm_momentum": ({"model.norm": "group", "model.norm_groups": 4}, {}),
    "eval.precise_bn": ({"model.norm": "group", "model.norm_groups": 4}, {}),
    "model.norm_groups": ({}, {"model.norm": "group", "model.norm_groups": 2}),
    "model.activation_slope": ({}, {"model.activation": "prelu"}),
    "model.kernel_fan": ({"model.kernel_init": "zeros"}, {}),
    "model.kernel_slope": ({"model.kernel_init": "normal"}, {}),
    "model.kernel_std": ({}, {"model.kernel_init": "normal"}),
    "model.se_ratio": ({}, {"model.attention": "se"}),
    "model.drop_block_size": ({}, {"model.drop_block": 0.5}),
    "model.block": ({"model.stage_blocks": ("basic", "basic")}, {}),
}


def test_every_option_is_in_the_table():
    """A new option must be added to `ALWAYS` or to `CONDITIONS`."""
    everything = [option.name for option in options(RunConfig, RunConfig(), shared=True)]
    assert sorted([*ALWAYS, *CONDITIONAL]) == sorted(everything)
    assert sorted(CASES) == sorted(CONDITIONAL)
    assert {condition.decides for condition in CONDITIONS} < set(everything)


@pytest.mark.parametrize("name", CASES)
def test_options_without_effect_are_reported(name):
    useless, useful = CASES[name]
    value = CHANGES[name][0]
    is_mistake = next(c.is_mistake for c in CONDITIONS if name in c.options)
    base = together(tiny(), useless)
    mistakes, warnings = without_effect(changed(base, name, value), base)
    expected, others = (mistakes, warnings) if is_mistake else (warnings, mistakes)
    assert len(expected) == 1 and not others
    assert expected[0].startswith(f"--{name} ") and " has no effect with " in expected[0]
    base = together(tiny(), useful)
    assert without_effect(changed(base, name, value), base) == ([], [])


def observations(name: str):
    if name.startswith("optim."):
        return updates
    if name.startswith("loss."):
        return objective
    return {"data.examples": names, "data.classes": names}.get(name, batch)


TRUE = ("data.examples", "data.eval_fraction", "augment.area", "augment.aspect", "augment.pad")
TRUE += (
    "data.on_bad_image",
    "data.max_pixels",
    "data.max_image_bytes",
    "data.train_split",
    "data.eval_split",
)
TRUE += ("loss.threshold", "loss.reduction", "loss.gamma", "loss.l1_on", "loss.l2_on")
TRUE += ("optim.beta2", "optim.epsilon", "optim.milestones", "optim.gamma", "optim.decay")
TRUE += (
    "optim.decay_mask",
    "optim.nesterov",
    "optim.power",
    "optim.floor",
    "optim.scaling",
    "optim.hold",
    "optim.cycle",
    "optim.cycle_lr",
    "optim.trust",
)


@pytest.mark.parametrize("name", TRUE)
def test_reported_options_have_no_effect(name, tmp_path):
    """Batches, splits and updates are identical."""
    base = together(tiny(), CASES[name][0] | {"data.image_size": 8})
    if base.data.name == "synthetic":
        base = together(base, {"data.examples": 20, "data.mean": (0.5,), "data.std": (0.5,)})
    other = changed(base, name, CHANGES[name][0])
    observe = observations(name)
    assert to_json(base) != to_json(other)
    assert observe(base, tmp_path) == observe(other, tmp_path)


@pytest.mark.parametrize("name", [*all_recipes(), None])
def test_recipes_and_defaults_give_no_warning(name):
    """Compared with themselves, and with the defaults."""
    config = all_recipes()[name] if name else RunConfig()
    assert check_effects(config, config) == []
    assert check_effects(config, RunConfig()) == []


def test_messages_name_the_option_the_value_and_the_reason():
    given = changed(tiny(), "data.dir", "my photos")
    with pytest.raises(ConfigError) as error:
        check_effects(given, tiny())
    assert str(error.value) == (
        "--data.dir my photos has no effect with data.name digits: "
        "it belongs to folder, csv, npz and TFDS data sets"
    )
    both = changed(given, "data.classes", 7)
    with pytest.raises(ConfigError, match=r"data.dir.*\n.*--data.classes 7 has no effect"):
        check_effects(both, tiny())
    assert check_effects(changed(tiny(), "optim.beta2", 0.5), tiny()) == [
        "--optim.beta2 0.5 has no effect with optim.name sgd: it belongs to optim.name adamw, "
        "lamb and rmsprop"
    ]
    # If the option is not set, the value of the network counts.
    se = changed(tiny(), "model.se_ratio", 0.5)
    assert "with model.attention none" in check_effects(se, tiny())[0]


def test_what_eval_and_predict_cannot_use():
    base = tiny()
    for name, value in (("optim.lr", 3.0), ("skip_nonfinite", 3), ("mesh.fsdp", 2)):
        with pytest.raises(ConfigError, match=rf"eval cannot change {name}: .* -> {value}; it can"):
            check_applicable("eval", base, changed(base, name, value), accepted_by_eval)
    assert check_applicable("eval", base, changed(base, "data.order", 1), accepted_by_eval) == [
        "--data.order has no effect on eval"
    ]
    with pytest.raises(ConfigError, match=r"--data.dir x has no effect with data.name digits"):
        check_applicable("eval", base, changed(base, "data.dir", "x"), accepted_by_eval)
    accepts = PREDICTION.__contains__
    other = changed(base, "data.threads", 3)
    assert check_applicable("predict", base, other, accepts) == [
        "--data.threads has no effect on predict"
    ]
    assert check_applicable("predict", base, changed(base, "data.image_size", 9), accepts) == []


# --- The command line ----------------------------------------------------------------------------


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[RunConfig, Path]]:
    """The configs and workdirs with which `train` calls `fit`. Nothing is trained."""
    calls: list[tuple[RunConfig, Path]] = []
    monkeypatch.setattr(
        train.run.fit, "fit", lambda config, where, **_: calls.append((config, where))
    )
    return calls


def test_photos_without_a_recipe_are_a_folder(fitted, tmp_path, capsys):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    photos = str(tmp_path / "photos")
    assert main(["train", "--data.dir", photos]) == 0
    ((config, workdir),) = fitted
    assert (config.recipe, config.data.name, config.data.dir) == ("folder", "folder", photos)
    assert workdir == Path("runs/folder")
    assert "training the recipe folder" in capsys.readouterr().out


def test_photos_with_the_recipe_digits_are_an_error(fitted, tmp_path, capsys):
    assert main(["train", "digits", "--data.dir", str(tmp_path)]) == 2
    assert "has no effect with data.name digits" in capsys.readouterr().err and not fitted


def test_training_continues_after_a_warning(fitted, capsys):
    assert main(["train", "--optim.gamma", "0.5"]) == 0
    assert capsys.readouterr().err.startswith("warning: --optim.gamma 0.5 has no effect with")
    assert fitted[0][0].optim.gamma == 0.5


def test_the_recipe_can_be_at_any_position(fitted, tmp_path):
    there = str(tmp_path)
    orders = (
        ["folder", "--data.dir", there, "--seed", "1"],
        ["--data.dir", there, "folder", "--seed", "1"],
        ["--data.dir", there, "--seed=1", "folder"],
        ["--data.dir", there, "--data.mean", "0.485", "0.456", "0.406", "folder", "--seed", "1"],
    )
    for args in orders:
        assert main(["train", *args]) == 0
    assert len(fitted) == 4
    assert len({str(flatten(to_json(config))) + str(workdir) for config, workdir in fitted}) == 1


def test_a_value_is_not_taken_for_the_recipe(tmp_path):
    assert take_recipe(["--data.name", "folder"]) == (None, ["--data.name", "folder"])
    assert take_recipe(["--help", "folder"]) == ("folder", ["--help"])
    given = ["--data.name", "folder", "--data.dir", "digits", "--data.image-size", "32"]
    assert choose(given) == ("digits", given, "", "")  # both are values, data.name is named


def test_other_data_in_the_recipe_of_the_digits_are_warned_about(fitted, tmp_path, capsys):
    """Training on photos of 8x8 pixels is probably not intended."""
    args = ["train", "--data.name", "folder", "--data.dir", str(tmp_path)]
    assert main(args) == 0
    assert capsys.readouterr().err.startswith(
        "warning: no recipe is named, so --data.name folder is trained as digits is, on images of "
        "8x8 pixels"
    )
    assert main([*args, "--data.image_size", "64"]) == 0
    assert main(["train", "digits", *args[1:]]) == 0
    assert capsys.readouterr().err == "" and len(fitted) == 3


def test_messages_about_words_that_are_no_recipe(tmp_path, capsys):
    (tmp_path / "tfds" / "mnist" / "3.0.1").mkdir(parents=True)
    (tmp_path / "tfds" / "mnist" / "3.0.1" / "dataset_info.json").write_text("{}")
    (tmp_path / "a.npz").write_text("")
    cases = {
        ("train", str(tmp_path)): "is not a recipe; for a folder of photos: resnet-jax train fold",
        ("train", "--data.dir", str(tmp_path / "a.npz")): "is a file: name the recipe",
        ("train", "--data.dir", str(tmp_path / "tfds")): "holds the TFDS data set mnist: name a",
        ("train", "resnet50"): "'resnet50' is a network, not a recipe: resnet-jax train RECIPE --m",
        ("train", "digit"): "unknown recipe 'digit': did you mean digits",
    }
    for args, message in cases.items():
        assert main(args) == 2
        assert message in capsys.readouterr().err


def test_two_recipes_are_an_error(fitted, capsys):
    assert main(["train", "digits", "--seed", "1", "folder"]) == 2
    assert "error: 'folder' is not the value of an option" in capsys.readouterr().err and not fitted


def test_eval_refuses_options_that_it_cannot_use(tmp_path, capsys):
    import json

    (tmp_path / "config.json").write_text(json.dumps(to_json(replace(tiny(), seed=3))))
    assert main(["eval", str(tmp_path), "--data.classes", "5"]) == 2
    assert "--data.classes 5 has no effect with data.name digits" in capsys.readouterr().err
    assert main(["eval", str(tmp_path), "--epochs", "5"]) == 2
    assert "unknown option --epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, given, decides",
    [
        ("mix.switch", {"mix.mixup": 0.2}, "mix.cutmix 0.0"),
        ("mix.switch", {"mix.cutmix": 1.0}, "mix.mixup 0.0"),
        ("mix.switch", {}, "mix.mixup 0.0"),
        ("optim.nesterov", {"optim.name": "lamb"}, "optim.name lamb"),
        ("optim.nesterov", {"optim.name": "lamb", "optim.momentum": 0.0}, "optim.momentum 0.0"),
    ],
)
def test_the_option_that_decides_is_named_once(name, given, decides):
    base = together(tiny(), given)
    [warning] = check_effects(changed(base, name, CHANGES[name][0]), base)
    assert f"has no effect with {decides}: " in warning
