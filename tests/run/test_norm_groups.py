"""Runs whose BatchNorm layers see few values: refused or said before anything is compiled."""

from dataclasses import replace

import jax
import pytest

from resnet_jax import create_model
from tests.runs import tiny
from train.config import ConfigError, DataConfig, ModelConfig
from train.distributed.mesh import make_mesh
from train.run.checks import check_parts
from train.run.directory import write_config
from train.run.fit import fit
from train.run.norm_groups import check_statistics, values_by_layer
from train.run.parts import Run
from train.run.resume import check_workdir, resumed_config
from train.run.start_screen import ema_note

DATA = DataConfig(name="synthetic", classes=4, examples=64, image_size=8, threads=0)


def run(batch_size: int, size: int, devices: int = 1, **changes: object) -> Run:
    config = tiny(batch_size=batch_size, data=replace(DATA, image_size=size), **changes)
    return Run(config, mesh=make_mesh(jax.devices()[:devices]))


@pytest.mark.parametrize("scan", [False, True])
def test_values_of_each_layer(scan):
    """resnet20_cifar at 8 pixels: maps of 8, 4 and 2 pixels a side."""
    model = create_model("resnet20_cifar", 4, depths=(1, 1, 5), width=8, scan=scan)
    found = values_by_layer(model, 3, 8)
    assert found["backbone/stem_norm1"] == found["backbone/stage1/block1/norm2"] == 3 * 64
    assert found["backbone/stage2/block1/norm1"] == 3 * 16
    third = {count for path, count in found.items() if "/stage3/" in path}
    assert third == {3 * 4} and min(found.values()) == 12
    grouped = create_model("resnet20_cifar", 4, depths=(1, 1, 1), width=8, norm_group_size=2)
    assert min(values_by_layer(grouped, 4, 8).values()) == 2 * 4


def test_one_value_is_refused_by_layer_and_sizes():
    message = (
        r"^resnet8_cifar at data.image_size 2, batch_size 1: backbone/stage2/block1/norm1: one "
        r"value per channel \(groups of 1 example, 1 pixel each\)"
    )
    with pytest.raises(ConfigError, match=message):
        check_statistics(run(1, 2))
    with pytest.raises(ConfigError, match="image_size 2, batch_size 8, norm_group_size 1: "):
        check_statistics(run(8, 2, norm_group_size=1))
    with pytest.raises(ConfigError, match="image_size 2, batch_size 8, norm_group_size 1: "):
        check_statistics(run(8, 2, devices=8, norm_group_size="device"))


def test_few_values_are_a_warning():
    warning = check_statistics(run(3, 2))
    assert warning == (
        "data.image_size 2, batch_size 3: 2 of 5 BatchNorm layers have statistics of 3 to 7 values "
        "per channel, the first is backbone/stage2/block1/norm1. They are noisy: a larger "
        "batch_size or data.image_size, or --model.norm group, would help"
    )


def test_enough_values_are_no_word():
    assert check_statistics(run(8, 2)) is None  # not even traced
    assert check_statistics(run(1, 8)) is None  # one example, a map of 4x4
    group = ModelConfig(name="resnet8_cifar", depths=(1, 1), width=8, norm="group", norm_groups=2)
    assert check_statistics(run(1, 2, model=group)) is None


def test_a_run_is_refused_before_anything_is_written(tmp_path):
    config = tiny(batch_size=8, norm_group_size=1, data=replace(DATA, image_size=2))
    with pytest.raises(ConfigError, match="one value per channel"):
        fit(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_that_ends_before_its_ema_decay_says_so():
    assert ema_note(run(32, 8, ema_decay=0.9999)) == (
        "ema_decay 0.9999 is reached after 89,990 steps. This run has 60 and ends at 0.8696: its "
        "average covers about the last tenth"
    )
    assert ema_note(run(32, 8, ema_decay=0.8)) is None and ema_note(run(32, 8)) is None


def test_the_examples_of_a_device_stay_the_same_when_a_run_resumes(tmp_path):
    """Whatever the devices are by then, and with the same command."""
    config = tiny(norm_group_size="device")
    write_config(tmp_path, Run(config, mesh=make_mesh(jax.devices()[:4])), 1)
    step = tmp_path / "checkpoints" / "10"
    step.mkdir(parents=True)
    resumed = resumed_config(tmp_path, config)
    assert resumed.norm_group_size == config.batch_size // 4
    assert check_workdir(tmp_path, resumed) is None
    with pytest.raises(ConfigError, match=r"norm_group_size: 8 -> 4"):
        check_workdir(tmp_path, resumed_config(tmp_path, replace(config, norm_group_size=4)))


def test_group_norm_has_no_batch_statistics():
    group = ModelConfig(name="resnet8_cifar", depths=(1, 1), width=8, norm="group", norm_groups=2)
    with pytest.raises(ConfigError, match=r"^norm_group_size 4: resnet8_cifar has no BatchNorm$"):
        check_parts(run(8, 8, model=group, norm_group_size=4))
