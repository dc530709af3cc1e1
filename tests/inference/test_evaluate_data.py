"""`eval` of other data: BatchNorm statistics come from the images that the run was trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.runs import tiny
from train.config import RunConfig
from train.inference.evaluate import _on_training_data
from train.run.fit import fit
from train.run.parts import Run


def arrays(file: Path, seed: int) -> str:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (96, 8, 8, 1), np.uint8)
    labels = np.arange(96) % 3
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(file)


def on(config: RunConfig, **data: object) -> Run:
    return Run(replace(config, data=replace(config.data, **data)))


def test_training_images_are_those_of_the_run(tmp_path):
    """As many images in another file are not taken for them, unless the run's own is gone."""
    own, other = (arrays(tmp_path / f"{name}.npz", seed) for seed, name in enumerate("ab"))
    config, run = tiny(duration="1st"), tmp_path / "run"
    config = replace(config, data=replace(config.data, name="npz", dir=own))
    fit(config, run, quiet=True)
    assert _on_training_data(same := on(config), run) is same
    elsewhere = on(config, dir=other)
    assert _on_training_data(elsewhere, run).config.data.dir == own
    Path(own).rename(tmp_path / "moved.npz")
    assert _on_training_data(elsewhere, run) is elsewhere


def test_another_held_out_share_is_of_as_many_images(tmp_path):
    config = tiny(duration="1st")
    fit(config, tmp_path, quiet=True)
    assert _on_training_data(on(config, split_seed=1), tmp_path).config.data.split_seed == 0
