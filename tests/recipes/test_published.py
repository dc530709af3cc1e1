"""The numbers of the sources, and that `--duration`, `--batch_size` and `--data.image_size` move a
recipe as a whole.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

from train.config import RunConfig, to_steps
from train.config.effects import check_effects
from train.learn.optim.averages import make_average
from train.learn.optim.schedules import make_schedule, peak_rate
from train.recipes import all_recipes, get_recipe

RECIPES = list(all_recipes())
EXAMPLES = {"cifar10": 50_000, "cifar100": 50_000, "imagenet2012": 1_281_167}


def examples(config: RunConfig) -> int:
    held_out = config.data.train_split == "train[:45000]"
    return 45_000 if held_out else EXAMPLES.get(config.data.name, 50_000)


def steps(config: RunConfig, duration: str) -> int:
    total = to_steps(config.duration, examples=examples(config), batch_size=config.batch_size)
    options = {"examples": examples(config), "batch_size": config.batch_size}
    return to_steps(duration, total=total, **options)


# name -> peak rate, batch, epochs, weight decay, warm-up in epochs
PUBLISHED = {
    "he2015-resnet50": (0.1, 256, 119.9, 1e-4, 0),
    "fb-resnet50": (0.1, 256, 90, 1e-4, 0),
    "torchvision-v1-resnet50": (0.1, 256, 90, 1e-4, 0),
    "torchvision-v2-resnet50": (0.5, 1024, 600, 2e-5, 5),
    "bag-baseline": (0.1, 256, 120, 1e-4, 0),
    "bag-linear-scaling": (0.4, 1024, 120, 1e-4, 0),
    "bag-warmup": (0.4, 1024, 120, 1e-4, 5),
    "bag-d": (0.4, 1024, 120, 1e-4, 5),
    "bag-mixup": (0.4, 1024, 200, 1e-4, 5),
    "rsb-a1": (5e-3, 2048, 600, 0.01, 5),
    "rsb-a2": (5e-3, 2048, 300, 0.02, 5),
    "rsb-a3": (8e-3, 2048, 100, 0.02, 5),
    "goyal-8k": (3.2, 8192, 90, 1e-4, 5),
    "lars-32k": (34, 32_768, 64, 1e-4, 25),
    "mlperf-lars": (10, 4096, 42, 2e-4, 5),
    "ffcv-16": (1.7, 1024, 16, 1e-4, 2),
    "ffcv-88": (1.7, 1024, 88, 1e-4, 2),
    "imagenet-resnetrs50": (1.6, 4096, 350, 4e-5, 5),
    "cifar10-resnet110-paper": (0.1, 128, 163.84, 1e-4, 1.024),
    "cifar100-resnet20-paper": (0.1, 128, 163.84, 1e-4, 0),
    "cifar10-preact164": (0.1, 128, 200, 1e-4, 0),
    "cifar10-preact1001": (0.1, 128, 200, 1e-4, 0),
    "cifar10-wrn28-10": (0.1, 128, 200, 5e-4, 0),
    "cifar10-resnext29-8x64d": (0.1, 128, 300, 5e-4, 0),
    "cifar10-gluoncv-resnet20": (0.1, 128, 200, 1e-4, 0),
    "cifar10-gluoncv-resnet110-mixup": (0.1, 128, 350, 1e-4, 0),
    "cifar10-gluoncv-wrn28-10-mixup": (0.1, 128, 220, 5e-4, 0),
}

MILESTONES = {
    "fb-resnet50": ([30, 60], 0.1),
    "torchvision-v1-resnet50": ([30, 60], 0.1),
    "bag-efficient": ([30, 60, 90], 0.1),
    "bag-d": ([30, 60, 90], 0.1),
    "goyal-8k": ([30, 60, 80], 0.1),
    "cifar10-preact1001": ([81, 122], 0.1),
    "cifar10-wrn28-10-dropout": ([60, 120, 160], 0.2),
    "cifar10-resnext29-16x64d": ([150, 225], 0.1),
    "cifar10-gluoncv-resnet20-mixup": ([150, 250], 0.1),
    "cifar10-gluoncv-wrn28-10": ([60, 120, 160], 0.2),
    "cifar10-gluoncv-wrn28-10-mixup": ([60, 120, 160], 0.2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_rate_batch_epochs_decay_and_warmup(name):
    config = get_recipe(name)
    rate, batch, epochs, decay, warmup = PUBLISHED[name]
    assert config.batch_size == batch
    assert peak_rate(config) == pytest.approx(rate)
    assert config.optim.weight_decay == decay
    per_epoch = examples(config) / batch
    assert steps(config, "100%") == pytest.approx(epochs * per_epoch, rel=0.001)
    assert steps(config, config.optim.warmup) == pytest.approx(warmup * per_epoch, abs=1.5)


@pytest.mark.parametrize("name", MILESTONES)
def test_the_rate_falls_at_the_epochs_of_the_source(name):
    config = get_recipe(name)
    epochs, gamma = MILESTONES[name]
    per_epoch = examples(config) / config.batch_size
    found = [steps(config, milestone) / per_epoch for milestone in config.optim.milestones]
    assert config.optim.schedule == "step" and config.optim.gamma == gamma
    assert found == pytest.approx(epochs, abs=2 / per_epoch)


def test_what_else_the_table_of_the_recipes_says():
    a1, a2, a3 = (get_recipe(f"rsb-a{i}") for i in (1, 2, 3))
    assert [c.mix.label_smoothing for c in (a1, a2, a3)] == [0.1, 0, 0]
    assert [c.mix.mixup for c in (a1, a2, a3)] == [0.2, 0.1, 0.1]
    assert [c.augment.repeats for c in (a1, a2, a3)] == [3, 3, 1]
    assert [c.model.drop_path for c in (a1, a2, a3)] == [0.05, 0.05, None]
    assert a3.augment.policy == "rand-m6-mstd0.5-inc1" and a3.data.image_size == 160
    assert {c.loss.name for c in (a1, a2, a3)} == {"bce"}
    two = get_recipe("torchvision-v2-resnet50")
    assert (two.mix.mixup, two.mix.cutmix, two.mix.erasing) == (0.2, 1.0, 0.1)
    assert two.eval.crop_fraction == pytest.approx(224 / 232)
    ffcv = get_recipe("ffcv-16")
    assert (ffcv.augment.size_start, ffcv.data.image_size) == (160, 192)
    goyal = get_recipe("goyal-8k")
    assert (goyal.norm_group_size, goyal.model.head_std, goyal.optim.nesterov) == (32, 0.01, True)
    bag = get_recipe("bag-baseline")
    assert [round(255 * m, 3) for m in bag.data.mean] == [123.68, 116.779, 103.939]
    assert (bag.model.kernel_init, bag.optim.decay_mask) == ("xavier_uniform", "all")
    per_epoch = examples(ffcv) / ffcv.batch_size
    ramp = [steps(ffcv, end) / per_epoch for end in ffcv.augment.size_ramp]
    assert ramp == pytest.approx([11, 13], abs=0.01)
    assert make_schedule(goyal, examples=1_281_167, total_steps=14_076)(14_000) == pytest.approx(
        0.0032, rel=1e-3
    )


# --- a recipe is moved as a whole ----------------------------------------------------------------


def curve(config: RunConfig, points: int = 21) -> np.ndarray:
    """The rate at equal shares of the run, relative to the peak."""
    total = steps(config, "100%")
    schedule = make_schedule(config, examples=examples(config), total_steps=total)
    at = np.linspace(0, total - 1, points).astype(int)
    return np.asarray([float(schedule(step)) for step in at]) / peak_rate(config)


@pytest.mark.parametrize("name", RECIPES)
def test_duration_scales_schedule_warmup_and_mixing(name):
    config = get_recipe(name)
    short = replace(config, duration=f"{steps(config, '100%') // 4}st")
    assert curve(short) == pytest.approx(curve(config), abs=0.03)
    # one epoch of a small data set is a run too
    tiny = replace(config, duration="200st")
    make_schedule(tiny, examples=50_000, total_steps=200)
    for duration in (config.optim.warmup, config.mix.off, *config.augment.size_ramp):
        assert not duration.endswith("ep")
        assert duration in ("", "0st") or steps(short, duration) == pytest.approx(
            steps(config, duration) / 4, abs=2
        )


@pytest.mark.parametrize("name", RECIPES)
def test_batch_size_scales_rate_and_keeps_epochs(name):
    config = get_recipe(name)
    epochs = config.duration.endswith("ep")
    for factor in (0.5, 2):
        moved = replace(config, batch_size=int(config.batch_size * factor))
        power = 0.5 if config.optim.scaling == "sqrt" else 1
        assert peak_rate(moved) == pytest.approx(peak_rate(config) * factor**power)
        total = steps(config, "100%")
        assert steps(moved, "100%") == pytest.approx(total / factor if epochs else total, abs=1)
        assert curve(moved) == pytest.approx(curve(config), abs=0.03)


@pytest.mark.parametrize("name", [name for name in RECIPES if get_recipe(name).ema_decay])
def test_the_average_covers_the_same_share_of_a_moved_run(name):
    """The mean age of what is averaged, 1 / (1 - decay) updates, at the end of the run."""

    def horizon(config: RunConfig) -> float:
        total = steps(config, "100%")
        average = make_average(config, examples=examples(config), total_steps=total)
        return average.every / (1 - float(average.decay(total - 1))) / total

    config = get_recipe(name)
    size, epochs = config.batch_size, float(config.duration[:-2])
    moved = (replace(config, batch_size=2 * size), replace(config, duration=f"{epochs / 2}ep"))
    found = [horizon(c) / horizon(config) for c in moved]
    if config.ema_rule == "torchvision":  # its rule: epochs / (batch size * steps of an epoch)
        assert found == pytest.approx([1, 1], rel=0.01)
    else:  # about the last tenth of the run
        assert horizon(config) == pytest.approx(0.1, abs=0.02)
        assert found == pytest.approx([1, 1], abs=0.35)


@pytest.mark.parametrize("name", RECIPES)
def test_image_size_needs_no_other_option(name):
    config = get_recipe(name)
    size = config.data.image_size
    other = 256 if config.augment.size_start else size // 2
    moved = replace(config, data=replace(config.data, image_size=other))
    assert check_effects(moved, config) == []
    assert re.fullmatch(r"[01](\.\d+)?", str(moved.eval.crop_fraction))
