"""A run with mixing and erasing: it resumes exactly, and its accuracy counts the larger share."""

import re
import signal
from dataclasses import replace

import pytest

from tests.run.test_fit import content, stopping_at
from tests.runs import tiny
from train.config import ConfigError, MixConfig, RunConfig, RunError
from train.run.fit import fit

MIX = MixConfig(
    label_smoothing=0.1,
    smooth_over="others",
    mixup=0.2,
    cutmix=1.0,
    per="example",
    off="10%",
    cutout=3,
    erasing=0.5,
    erasing_fill="pixel",
)


def mixed(**changes: object) -> RunConfig:
    return tiny(duration="20st", mix=replace(MIX, **changes))


def test_it_resumes_bit_for_bit(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(mixed(), whole, quiet=True)
    with monkeypatch.context() as patch:
        stopping_at(patch, 7, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 7 of 20, saved"):
            fit(mixed(), cut, quiet=True)
    fit(mixed(), cut, quiet=True)
    assert content(whole) == content(cut)
    page = (whole / "report" / "index.html").read_text()
    assert "mixed examples, whose accuracy counts the class with the larger share" in page


def test_mixing_that_never_starts_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"mix.off '20st' is 20 steps: must be shorter than the"):
        fit(mixed(off="20st"), tmp_path, quiet=True)


def test_a_batch_of_one_cannot_be_mixed():
    with pytest.raises(ConfigError, match=r"batch_size 1: mixup and CutMix need a batch of at l"):
        tiny(batch_size=1, mix=MixConfig(mixup=0.2))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mix": MixConfig(cutout=9)}, "mix.cutout 9: must be at most data.image_size 8"),
        ({"classes": 1}, "mix.smooth_over others: needs at least 2 classes; the data have 1"),
    ],
)
def test_options_that_do_not_suit_the_data_are_refused(changes, message, tmp_path):
    config = mixed()
    if classes := changes.pop("classes", None):
        options = {"name": "synthetic", "classes": classes, "examples": 64}
        config = replace(config, data=replace(config.data, **options))
    with pytest.raises(ConfigError, match=re.escape(message)):
        fit(replace(config, **changes), tmp_path, quiet=True)
