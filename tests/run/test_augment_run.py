"""A run with augmentation on the host: it resumes exactly."""

import signal
from dataclasses import replace

import pytest

from tests.run.test_fit import content, stopping_at
from tests.runs import tiny
from train.config import AugmentConfig, ConfigError, RunError
from train.run.fit import fit

EVERYTHING = AugmentConfig(
    scale=(8, 11),
    interpolation="random",
    vertical_flip=True,
    rotate=15.0,
    translate=0.1,
    policy="rand-m7-mstd0.5-inc1",
    fill=(128,),
    jitter=(0.4, 0.4, 0.0, 0.0),
    blur=0.5,
    repeats=3,
)


def test_it_resumes_bit_for_bit(tmp_path, monkeypatch):
    config = tiny(duration="12st", augment=EVERYTHING)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(config, whole, quiet=True)
    with monkeypatch.context() as patch:
        stopping_at(patch, 6, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 6 of 12, saved"):
            fit(config, cut, quiet=True)
    with pytest.raises(ConfigError, match=r"augment\.repeats: 3 -> 2"):
        fit(replace(config, augment=replace(EVERYTHING, repeats=2)), cut, quiet=True)
    threads = replace(config, data=replace(config.data, threads=3))
    fit(threads, cut, quiet=True)
    assert content(whole) == content(cut)
