"""A run with all options of the optimisation: it resumes exactly, and says what is on."""

import signal
from dataclasses import replace

import pytest

from tests.run.test_fit import content, stopping_at
from tests.runs import tiny
from train.config import RunConfig, RunError
from train.learn.loss_scale import first_scale
from train.run.fit import fit


def everything() -> RunConfig:
    config = tiny(
        duration="12st", precision="fp16", ema_decay=0.9, ema_every="2st", ema_rule="torchvision"
    )
    options = {"accumulate": 2, "sam": 0.05, "clip_value": 0.1, "hold": "25%", "floor": 0.01}
    return replace(
        config,
        optim=replace(config.optim, **options),
        checkpoint=replace(config.checkpoint, every="1st"),
    )


def test_it_resumes_bit_for_bit(tmp_path, monkeypatch, capsys):
    """The loss scale starts so high that the first steps overflow."""
    monkeypatch.setattr("train.learn.state.first_scale", lambda: first_scale(2.0**24))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(everything(), whole)
    said = capsys.readouterr().out
    assert "SAM with rho 0.05 (two gradients a step), 2 micro-batches a step" in said
    assert "(torchvision's rule: 0), every 2 steps" in said and ", fp16" in said
    with monkeypatch.context() as patch:
        stopping_at(patch, 7, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 7 of 12, saved"):
            fit(everything(), cut, quiet=True)
    fit(everything(), cut, quiet=True)
    assert content(whole) == content(cut)
    rows, _ = content(whole)
    train = [row for row in rows if row["split"] == "train"]
    assert train[0]["overflows"] > 0 and train[-1]["loss_scale"] < 2.0**24
