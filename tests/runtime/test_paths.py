"""Paths of runs: any name works, or is refused before the first step."""

import os
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import train.checkpoint.manager
from tests.runs import tiny
from train.checkpoint.manager import Checkpoints
from train.checkpoint.paths import ArraysHandler
from train.config import CheckpointConfig, ConfigError, RunError
from train.learn.state import TrainState
from train.learn.tasks import Classify
from train.paths import expand, resolve_workdir
from train.run.directory import read_config
from train.run.fit import fit

GOOD = [
    "exp[1]",
    "[a]/b",
    "a*b",
    "a?",
    "{a,b}",
    "a b",
    "a%20b",
    "a#b",
    "ü名",
    "gs:x",
    "a@b",
    "a..b",
]
GOOD += ["line\nbreak", "quo'te\"", "a|b", "~x", "file:", "x" * 250, "-", "a;b&c$d"]
BAD = {
    "back\\slash": "contains a backslash",
    "gs:": "Orbax reads 'gs:' as cloud storage",
    "caf\udce9": "is not UTF-8",
}


def state(value: int) -> TrainState:
    return TrainState(jnp.int32(value), {"kernel": jnp.full((4, 4), value)}, {}, {}, {})


def saved(folder: Path, step: int = 1) -> Checkpoints:
    checkpoints = Checkpoints(folder, CheckpointConfig(), Classify())
    checkpoints.save(step, state(step), {}, None)
    checkpoints.wait()
    return checkpoints


@pytest.mark.parametrize("name", GOOD)
def test_checkpoints_are_kept_in_folders_of_any_name(tmp_path, name):
    workdir = resolve_workdir(tmp_path / name)
    folder = workdir / "checkpoints"
    saved(folder).close()
    found = Checkpoints(folder, CheckpointConfig(), Classify()).restore(state(9))
    assert found is not None and found.step == 1 and int(found.state.params["kernel"][0, 0]) == 1


def test_a_pattern_stands_for_itself(tmp_path):
    """Of `a*b`, a merge would take the parts that another run, in `aXb`, is writing."""
    foreign = tmp_path / "aXb" / "1.orbax-checkpoint-tmp" / "state" / "ocdbt.process_7"
    foreign.mkdir(parents=True)
    (foreign / "manifest.ocdbt").write_bytes(b"another run's")
    saved(tmp_path / "a*b").close()
    found = Checkpoints(tmp_path / "a*b", CheckpointConfig(), Classify()).restore(state(9))
    assert found is not None and found.step == 1


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"checkpoints cannot be stored there: .*{BAD[name]}"):
        fit(tiny(), tmp_path / name / "run", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_stands_for_cloud_storage():
    with pytest.raises(ConfigError, match="Orbax reads '/gs' as cloud storage"):
        resolve_workdir("/gs/bucket/run")


def test_ways_to_the_same_folder(tmp_path, monkeypatch):
    """`..`, a link, a relative path and a slash at the end, for what writes and what reads."""
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "other")
    saved(Path("../runs/x")).close()
    ways = ["../runs/x", "../other/../runs/x/", "../link/x", str(tmp_path / "other/../runs/x")]
    for way in ways:
        assert resolve_workdir(way) == tmp_path / "runs" / "x"
        found = Checkpoints(Path(way), CheckpointConfig(), Classify()).restore(state(9))
        assert found is not None and found.step == 1


def test_a_folder_is_the_same_after_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = saved(Path("x"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert checkpoints.steps() == [1]
    checkpoints.close()


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_workdir("~/runs/x") == tmp_path / "runs" / "x"
    assert expand("~/a/../b", "data.dir") == tmp_path / "a/../b"
    with pytest.raises(ConfigError, match=r"workdir '~nobody-here/x': .* no user 'nobody-here'"):
        resolve_workdir("~nobody-here/x")


def test_a_run_remembers_its_data_from_everywhere(tmp_path, monkeypatch):
    """data.dir in config.json does not depend on where the training was started."""
    pixels, labels = np.zeros((16, 8, 8), np.uint8), np.arange(16) % 2
    (tmp_path / "here").mkdir()
    arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
    np.savez(tmp_path / "here" / "data.npz", **arrays)
    monkeypatch.chdir(tmp_path / "here")
    config = tiny(duration="1st", batch_size=8, checkpoint=CheckpointConfig())
    config = replace(config, data=replace(config.data, name="npz", dir="data.npz"))
    fit(config, "../run", quiet=True)
    monkeypatch.chdir(tmp_path)
    assert read_config(Path("run")).data.dir == str(tmp_path / "here" / "data.npz")
    fit(read_config(Path("run")), "run", quiet=True)


def test_a_checkpoint_that_cannot_be_read_back_is_noticed_soon(tmp_path, monkeypatch):
    """Not at the end of the run, when nothing is left of it."""
    monkeypatch.setattr(ArraysHandler, "finalize", lambda self, directory: None)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), Classify())
    checkpoints.save(1, state(1), {}, None)
    checkpoints._finishing.exception()  # it has been read by now
    with pytest.raises(RunError, match=r"checkpoint 1 was .* reading it back gives other data"):
        checkpoints.check()
    checkpoints.check()  # told once
    checkpoints.close()


def test_later_checkpoints_are_read_back_in_part(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path)
    reads: list[Path] = []
    monkeypatch.setattr(train.checkpoint.manager, "verify", reads.append)
    checkpoints.save(2, state(2), {}, None)
    checkpoints.wait()
    assert reads == []
    monkeypatch.setattr(
        train.checkpoint.manager, "to_json", lambda *_: {"content": {}, "sha256": ""}
    )
    old = os.listdir(tmp_path)
    checkpoints.save(3, state(3), {}, None)
    with pytest.raises(RunError, match=r"checkpoint 3 was written .*progress/metadata"):
        checkpoints.wait()
    assert set(old) < set(os.listdir(tmp_path))  # nothing went for it
    checkpoints.close()
