"""`--augment.preset`: the values of a published pipeline, which explicit options change."""

import json
from dataclasses import replace

import pytest

import train.run.fit
from train.__main__ import main
from train.cli.arguments import take_preset
from train.config import AugmentConfig, ConfigError
from train.config.presets import PRESETS
from train.config.serialize import from_json, to_json
from train.recipes import get_recipe

CIFAR = get_recipe("cifar10-resnet20")


@pytest.fixture
def trained(monkeypatch):
    """The configs that `train` would run."""
    found = []
    monkeypatch.setattr(train.run.fit, "fit", lambda config, *args, **kwargs: found.append(config))
    return found


def test_what_the_pipelines_are():
    """Against the published values; see `train/config/presets.py` for the sources."""
    changed = {
        name: {k: v for k, v in vars(preset).items() if v != vars(AugmentConfig())[k]}
        for name, preset in PRESETS.items()
    }
    assert changed == {
        "he2015": {"scale": (256, 480), "lighting": 0.1},
        "bag-of-tricks": {"jitter": (0.4, 0.4, 0.4, 0.0), "lighting": 0.1},
        "torchvision-v2": {"policy": "ta_wide", "repeats": 4},
        "rsb-a1": {
            "policy": "rand-m7-mstd0.5-inc1",
            "interpolation": "bicubic",
            "fill": (124, 116, 104),
            "repeats": 3,
        },
    }
    # ImageNet's mean, with which timm fills
    assert PRESETS["rsb-a1"].fill == tuple(round(255 * x) for x in (0.485, 0.456, 0.406))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("form", ["--augment.preset {}", "--augment.preset={}"])
def test_it_replaces_the_augmentation_of_the_recipe(name, form, trained, capsys):
    args = ["train", "cifar10-resnet20", "--seed", "3", *form.format(name).split()]
    assert main([*args, "--data.dir", "x"]) == 0
    assert trained == [replace(CIFAR, seed=3, augment=PRESETS[name], data=trained[0].data)]
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("first", [True, False])
def test_an_explicit_option_wins_even_with_the_default_value(first, trained):
    preset, others = ["--augment.preset", "rsb-a1"], ["--augment.policy", "", "--augment.repeats=1"]
    args = [*preset, *others] if first else [*others, *preset]
    assert main(["train", "digits", *args]) == 0
    assert trained[0].augment == replace(PRESETS["rsb-a1"], policy="", repeats=1)


def test_a_stored_config_has_the_values():
    config, rest = take_preset(CIFAR, ["--augment.preset", "rsb-a1"])
    tree = json.loads(json.dumps(to_json(config)))
    assert rest == [] and "preset" not in tree["augment"]
    assert tree["augment"]["policy"] == "rand-m7-mstd0.5-inc1" and tree["augment"]["repeats"] == 3
    assert from_json(tree) == config


@pytest.mark.parametrize("args", [["--augment.preset", "rsb"], ["--augment.preset"]])
def test_an_unknown_preset_is_named_with_the_others(args):
    with pytest.raises(ConfigError) as error:
        take_preset(CIFAR, args)
    got = "'rsb'" if len(args) > 1 else "(no value)"
    assert str(error.value) == (
        f"--augment.preset {got}: needs he2015, bag-of-tricks, torchvision-v2 or rsb-a1"
    )


def test_it_is_listed_and_belongs_to_training(capsys):
    with pytest.raises(SystemExit):
        main(["train", "digits", "--help-all"])
    assert "--augment.preset he2015|bag-of-tricks|torchvision-v2|rsb-a1" in capsys.readouterr().out
    assert main(["predict", "resnet50", "x.jpg", "--augment.preset", "rsb-a1"]) == 2
    assert "--augment.preset: is an option of train, preview, lr-find and plan, not of predict" in (
        capsys.readouterr().err
    )
