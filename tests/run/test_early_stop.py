"""Patience: where a run ends early, and that a resumed run ends there too."""

import math
import signal
from dataclasses import replace

import pytest

from tests.run.test_fit import content, stopping_at
from tests.runs import tiny
from train.config import CheckpointConfig, EvalConfig, RunConfig, RunError
from train.learn.tasks import Metric
from train.run.checks import find_warnings
from train.run.early_stop import since_best
from train.run.fit import fit
from train.run.parts import Run

TOP1, LOSS = Metric("top1", "top-1"), Metric("loss", "loss", higher_is_better=False)


@pytest.mark.parametrize(
    "values, metric, expected",
    [
        ([0.5, 0.6, 0.7], TOP1, 0),
        ([0.5, 0.6, 0.6, 0.6], TOP1, 2),
        ([0.7, 0.5, 0.6], TOP1, 2),
        ([0.7, 0.5, 0.6], LOSS, 1),
        ([math.nan, 0.5, math.nan], TOP1, 1),
        ([], TOP1, 0),
    ],
)
def test_evaluations_since_the_best(values, metric, expected):
    assert since_best(values, metric) == expected


def patient(patience: int = 2) -> RunConfig:
    """The rate is so small that no evaluation is better than the first one."""
    config = tiny(duration="12st", log_every="2st", patience=patience, ema_decay=0.9)
    return replace(
        config,
        model=replace(config.model, norm="group", norm_groups=4),  # no statistics that move
        optim=replace(config.optim, lr=1e-12),
        eval=EvalConfig(every="2st", batch_size=128, crop_fraction=1.0),
        checkpoint=CheckpointConfig(every="1st"),
    )


def test_a_run_ends_early_and_resumes_there(tmp_path, monkeypatch, capsys):
    config, whole, cut = patient(), tmp_path / "whole", tmp_path / "cut"
    fit(config, whole)
    said = capsys.readouterr().out
    assert "stopped early, after step 6 of 12: top-1 accuracy has not improved in 2 evalua" in said
    assert "best checkpoint: step " in said and (whole / "report" / "index.html").exists()
    rows, _ = content(whole)
    assert [row["step"] for row in rows if row["split"] == "eval"] == [2, 4, 6]

    with monkeypatch.context() as patch:
        stopping_at(patch, 5, signal.SIGTERM)
        with pytest.raises(RunError, match="after step 5 of 12, saved"):
            fit(config, cut, quiet=True)
    fit(config, cut, quiet=True)
    assert content(whole) == content(cut)

    fit(config, cut)  # the same command again trains no step
    assert "stopped early, after step 6 of 12" in capsys.readouterr().out
    assert content(whole) == content(cut)

    fit(replace(config, patience=4), cut, quiet=True, extend=True)
    assert content(cut)[0][-1]["step"] == 10


def test_more_patience_than_evaluations_is_reported():
    message = "patience 5 has no effect: the run has 6 evaluations, and can end early only after 6"
    assert find_warnings(Run(patient(5)), trains=False)[-1].startswith(message)
    assert find_warnings(Run(patient(4)), trains=False) == []
