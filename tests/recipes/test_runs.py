"""Every recipe runs two steps on a tiny network, with all else as it is, and resumes exactly.

The default suite has one recipe, with averages, mixing options and a padded crop; `pytest -m slow
tests/recipes/test_runs.py` has all others, about a minute each on two busy cores.
"""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.run.test_fit import content, stopping_at
from train.config import RunConfig, RunError
from train.recipes import all_recipes, get_recipe
from train.run.fit import fit

TYPICAL = "cifar10-fast"


def small(name: str) -> RunConfig:
    """The recipe with a network of one block, on synthetic images of 16 pixels, for three steps."""
    config = get_recipe(name)
    model = replace(
        config.model,
        name="resnet8_cifar",
        **{"depths": (1,), "width": 8, "stage_widths": (), "stem_width": None, "stem_pool": None},
    )
    data = replace(
        config.data,
        **{"name": "synthetic", "image_size": 16, "examples": 24, "classes": 5, "threads": 0},
        **{"train_split": "train", "eval_split": "test", "test_split": ""},
    )
    augment = config.augment
    if any(augment.scale):
        augment = replace(augment, scale=(18, 34))
    if augment.size_start:
        # they grow between epochs, which have one step
        augment = replace(augment, size_start=8, size_step=8, size_ramp=("1st", "2st"))
        data = replace(data, examples=8)
    group = config.norm_group_size and 4
    return replace(
        config,
        **{"duration": "3st", "batch_size": 8, "log_every": "1st", "norm_group_size": group},
        **{"model": model, "data": data, "augment": augment, "precision": "fp32"},
        eval=replace(config.eval, every="3st", batch_size=8),
        checkpoint=replace(config.checkpoint, every="1st"),
        mix=replace(config.mix, cutout=min(config.mix.cutout, 8)),
        optim=replace(config.optim, lr=config.optim.lr * 8 / config.batch_size, lr_batch=8),
    )


def resumes(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run to its end, and one that is stopped after two steps and started again."""
    config = small(name)
    fit(config, folder / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stopping_at(patch, 2, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 2 of 3, saved"):
            fit(config, folder / "cut", quiet=True)
    fit(config, folder / "cut", quiet=True)
    whole, cut = content(folder / "whole"), content(folder / "cut")
    assert whole == cut
    assert [row["step"] for row in whole[0] if row["split"] == "train"] == [1, 2, 3]


def test_a_typical_recipe_resumes_exactly(tmp_path, monkeypatch):
    resumes(TYPICAL, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in all_recipes() if name != TYPICAL])
def test_all_other_recipes_resume_exactly(name, tmp_path, monkeypatch):
    resumes(name, tmp_path, monkeypatch)
