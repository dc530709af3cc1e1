"""A duration in hours: the number of steps, what is recorded, and a resume without measuring."""

import json
import re
from dataclasses import replace

import pytest

from tests.run.test_fit import content
from tests.runs import tiny
from train.config import ConfigError, EvalConfig, RunConfig
from train.run import time_budget
from train.run.fit import fit
from train.run.parts import Run
from train.run.time_budget import Times, steps_in


def test_steps_and_evaluations_fill_the_time():
    times, every = Times(compile=0.0, step=0.25, evaluation=3.0), 40
    steps = steps_in(1000.0, times, every)
    taken = steps * 0.25 + (steps / every + 2) * 3.0
    assert 999 < taken <= 1000


def hours(duration: str) -> RunConfig:
    config = replace(tiny(), duration=duration, log_every="5st")
    return replace(config, eval=EvalConfig(every="10st", batch_size=128, crop_fraction=1.0))


def measured(monkeypatch: pytest.MonkeyPatch, times: Times) -> list[Run]:
    """Fixes what is measured; -> the runs that were."""
    runs: list[Run] = []
    monkeypatch.setattr(time_budget, "measure", lambda run, _: runs.append(run) or times)
    return runs


def test_the_steps_are_chosen_once(tmp_path, monkeypatch, capsys):
    runs = measured(monkeypatch, Times(compile=1.0, step=7.5, evaluation=0.0))
    fit(hours("1min"), tmp_path)
    assert "duration 1min: 7 steps of 7.5 s, an evaluation takes 0 s" in capsys.readouterr().out
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["duration"] == "7st" and record["time_budget"] == "1min"
    before = content(tmp_path)
    assert before[0][-1]["step"] == 7

    for same in ("1min", "7st"):
        fit(hours(same), tmp_path, quiet=True)
    assert content(tmp_path) == before and len(runs) == 1
    message = "the run in .* has --duration 1min, which is 7st; give that, or epochs or steps"
    with pytest.raises(ConfigError, match=message):
        fit(hours("2h"), tmp_path, quiet=True)
    with pytest.raises(ConfigError, match=message):
        fit(hours("2h"), tmp_path, quiet=True, extend=True)


def test_a_time_that_is_too_short(tmp_path, monkeypatch):
    measured(monkeypatch, Times(compile=1.0, step=3.0, evaluation=50.0))
    message = r"duration '1min': too short. A step takes 3 s, an evaluation 50 s, and \d+ s pass"
    with pytest.raises(ConfigError, match=message):
        fit(hours("1min"), tmp_path, quiet=True)


def test_mistakes_come_before_measuring(tmp_path, monkeypatch):
    runs = measured(monkeypatch, Times(1.0, 1.0, 1.0))
    config = hours("1h")
    with pytest.raises(ConfigError, match=r"optim.floor 9: must be below the peak rate"):
        fit(replace(config, optim=replace(config.optim, floor=9.0)), tmp_path, quiet=True)
    assert runs == []


def test_other_commands_need_steps():
    with pytest.raises(ConfigError, match=re.escape("duration '2h': only `train` turns a time")):
        _ = Run(hours("2h")).total_steps


def test_what_is_measured():
    """Steps and evaluations of the run, each of a positive time."""
    found = time_budget.measure(Run(hours("1000st")), 0.0)
    assert found.step > 0 and found.evaluation > 0 and found.compile > found.step


@pytest.mark.parametrize("changes", [{"mean": "measure"}, {"mean": "image"}, {"whiten": "pca"}])
def test_speed_is_measured_before_the_images_are(tmp_path, monkeypatch, changes):
    """One step of the run that is measured needs its normalisation."""
    times = Times(compile=1.0, step=7.5, evaluation=0.0)
    monkeypatch.setattr(time_budget, "measure", lambda run, _: run.prepare and times)
    config = hours("1min")
    fit(replace(config, data=replace(config.data, **changes)), tmp_path, quiet=True)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["duration"] == "7st" and record["data"]["mean"] != "measure"
