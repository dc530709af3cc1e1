"""train/recipes: every recipe's full config is a golden file, so that a changed default shows.

After a change that is meant, write the files anew and look at the diff:

    python -m tests.recipes.test_recipes
"""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.zoo import ZOO
from train.config import ConfigError, DataConfig, RunConfig, to_steps
from train.config.effects import changes
from train.config.serialize import flatten, to_json
from train.data.images.decode import decode
from train.data.sources import open_splits
from train.recipes import all_recipes, describe, get_recipe, modules

GOLDENS = Path(__file__).parents[1] / "goldens" / "recipes"
RECIPES = list(all_recipes())


def text(config: RunConfig) -> str:
    return json.dumps(to_json(config), indent=1) + "\n"


def regenerate() -> None:
    """Writes the golden file of every recipe, and removes those of recipes that are gone."""
    GOLDENS.mkdir(parents=True, exist_ok=True)
    for old in GOLDENS.glob("*.json"):
        old.unlink()
    for name, config in all_recipes().items():
        (GOLDENS / f"{name}.json").write_text(text(config))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_its_golden_file(name):
    golden = GOLDENS / f"{name}.json"
    assert golden.is_file(), "run `python -m tests.recipes.test_recipes`"
    assert text(get_recipe(name)) == golden.read_text()


def test_there_is_a_golden_file_for_each_recipe_only():
    assert {path.name for path in GOLDENS.iterdir()} == {f"{name}.json" for name in RECIPES}


def test_the_recipes_that_others_rely_on():
    cifar = [f"cifar10-resnet{depth}" for depth in (20, 32, 44, 56, 110)]
    cifar += [f"{name}-45k" for name in cifar]
    assert RECIPES[: 1 + len(cifar)] == ["digits", *cifar]
    assert RECIPES[-1] == "folder" and "imagenet-resnet50" in RECIPES
    assert len(RECIPES) == len(set(RECIPES)) == sum(len(m.RECIPES) for m in modules())
    for name, config in all_recipes().items():
        assert config.recipe == name
        assert config.model.name in ZOO
        assert config.compilation_cache is None and config.mesh.coordinator is None


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_where_it_comes_from_and_what_is_known(name):
    recipe = describe(name)
    assert recipe.source and recipe.hardware and recipe.expected and recipe.measured
    assert recipe.command.startswith(f"resnet-jax train {name}")
    if recipe.parent:  # which is a recipe by itself, or a step between two of them
        different = changes(recipe.config, recipe.parent.config)
        assert len(different) > 1 and different["recipe"] == name
        assert recipe.parent.name in [*RECIPES, "cifar10-resnet1202"]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_docstring_has_command_hardware_and_expected_result(module):
    text = inspect.getdoc(module)
    commands = re.findall(r"^    resnet-jax train *(\S*)", text, re.MULTILINE)
    assert len(commands) == 1 and (commands[0] or "digits") in module.RECIPES
    assert "Hardware:" in text
    assert re.search(r"^(.* )?Expected\b", text, re.MULTILINE)
    # a number, or a word on why there is none; and whether it was measured here
    assert re.search(r"\d %|measured", text.partition("Expected")[2])


@pytest.mark.parametrize(
    "name, near",
    [
        ("digit", ["digits"]),
        ("cifar10-resnet21", ["cifar10-resnet20"]),
        ("imagenet-resnet18", ["imagenet-resnet50"]),
        ("zzz", []),  # nothing is near
        ("", []),
    ],
)
def test_unknown_recipe_is_named_with_near_ones(name, near):
    with pytest.raises(ConfigError) as error:
        get_recipe(name)
    message = str(error.value)
    assert f"unknown recipe {name!r}: " in message and "`resnet-jax recipes` lists all" in message
    listed = message.partition("did you mean ")[2].partition("?")[0].split(", ")
    assert set(near) <= set(listed) and len(listed) <= 3
    assert near or "did you mean" not in message


# --- against the papers and the data, so that a wrong golden file shows too ----------------------


@pytest.mark.parametrize("name", [n for n in RECIPES if re.match(r"cifar10+-resnet\d", n)])
def test_cifar_schedule_is_the_papers(name):
    config = get_recipe(name)
    total = to_steps(config.duration, examples=50_000, batch_size=config.batch_size)
    at = [
        to_steps(m, examples=50_000, batch_size=128, total=total) for m in config.optim.milestones
    ]
    assert (total, at, config.batch_size) == (64_000, [32_000, 48_000], 128)
    rate = config.optim.lr * config.batch_size / config.optim.lr_batch
    assert (rate, config.optim.gamma, config.optim.momentum) == (0.1, 0.1, 0.9)
    assert (config.optim.weight_decay, config.optim.decay) == (1e-4, "l2")
    assert config.augment.crop == "pad" and config.augment.pad == 4 and config.augment.flip
    warmup = to_steps(config.optim.warmup, examples=50_000, batch_size=128, total=total)
    assert warmup == (400 if re.search("resnet(110|1202)", name) else 0)
    assert config.optim.nesterov == (not name.endswith("-paper"))


def test_the_papers_split_differs_in_its_splits_only():
    for name in RECIPES:
        if not name.endswith("-45k"):
            continue
        full, held_out = (flatten(to_json(get_recipe(n))) for n in (name[:-4], name))
        assert {key: value for key, value in held_out.items() if full[key] != value} == {
            "recipe": name,
            "data.train_split": "train[:45000]",
            "data.eval_split": "train[45000:]",
            "data.test_split": "test",
        }


def test_imagenet_rate_is_goyals():
    config = get_recipe("imagenet-resnet50")
    assert config.optim.lr * config.batch_size / config.optim.lr_batch == 0.1 * 1024 / 256
    steps = 90 * 1_281_167 / 1024
    warmup = to_steps(config.optim.warmup, examples=0, batch_size=1024, total=round(steps))
    assert config.duration == "90ep" and warmup == pytest.approx(steps / 18, abs=1)
    assert (config.optim.schedule, config.mix.label_smoothing) == ("cosine", 0.1)
    assert config.model.changes == {} and ZOO["resnet50"].zero_gamma


def test_imagenet_quotes_what_was_published():
    """The top-1 of "Bag of Tricks", table 6, is of ResNet-50-D and depends on the schedule."""
    (module,) = [m for m in modules() if "imagenet-resnet50" in m.RECIPES]
    text = " ".join(inspect.getdoc(module).split())
    assert "Table 6 of Bag of Tricks is about ResNet-50-D: 77.16 % with step decay, 77.91 %" in text
    assert re.search(r"ResNet50_v1b: 77\.67 % .*120 epochs", text)
    figures = set(re.findall(r"\d\d\.\d+", text))
    assert figures == {"77.67", "77.16", "77.91"}


def test_digits_are_normalised_by_their_mean_and_deviation():
    config = get_recipe("digits").data
    pixels = open_splits(config).train.images / 255
    assert config.mean == (pytest.approx(pixels.mean(), abs=1e-3),)
    assert config.std == (pytest.approx(pixels.std(), abs=1e-3),)


def test_cifar_is_normalised_by_its_mean_and_deviation(shared_data):
    config = get_recipe("cifar10-resnet20").data
    here = DataConfig(name="cifar10", dir=str(shared_data / "tfds"))
    source = open_splits(here).train
    some = [decode(source[i].image, max_pixels=1024) for i in range(0, len(source), 25)]
    pixels = np.stack(some) / 255
    np.testing.assert_allclose(pixels.mean((0, 1, 2)), config.mean, atol=0.005)
    np.testing.assert_allclose(pixels.std((0, 1, 2)), config.std, atol=0.005)


if __name__ == "__main__":
    regenerate()
