"""Which run a directory holds, and what a command without a recipe means there."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import pytest

import train.__main__
import train.run.fit
import train.run.resume
from tests.runs import tiny
from train.cli.choose_recipe import find_stored
from train.config import ConfigError, MeshConfig, RunConfig
from train.distributed.mesh import make_mesh
from train.run.checks import check_lengths
from train.run.directory import write_config
from train.run.parts import Run
from train.run.provenance import versions
from train.run.resume import check_workdir, describe_other_version, resumed_config


def begun(workdir: Path, config: RunConfig, *checkpoints: str) -> Path:
    """A directory as a run leaves it that saved these checkpoints."""
    for name in checkpoints:
        (workdir / "checkpoints" / name).mkdir(parents=True)
    workdir.mkdir(parents=True, exist_ok=True)
    write_config(workdir, Run(config), 1)
    return workdir


@pytest.fixture
def trained(monkeypatch) -> list[tuple[RunConfig, Path]]:
    """What `fit` is called with, instead of a training."""
    calls: list[tuple[RunConfig, Path]] = []
    monkeypatch.setattr(
        train.run.fit, "fit", lambda config, path, **_: calls.append((config, path))
    )
    return calls


def test_a_workdir_without_a_run_starts_nothing(tmp_path, trained, capsys):
    """A misspelt name, the parent of the runs, a folder of photos."""
    (tmp_path / "digits").mkdir()
    for workdir in (tmp_path / "digitz", tmp_path):
        assert train.__main__.main(["train", "--workdir", str(workdir), "--seed", "1"]) == 2
        said = capsys.readouterr().err
        assert f"--workdir '{workdir}' holds no run; to start one there, name a recipe: " in said
        assert f"resnet-jax train RECIPE --workdir {workdir}" in said
    assert trained == []
    with pytest.raises(SystemExit, match="0"):
        train.__main__.main(["train", "--workdir", str(tmp_path), "--help"])


def test_data_name_what_to_train_in_a_new_workdir(tmp_path, trained):
    args = ["train", "--data.name", "synthetic", "--workdir", str(tmp_path / "new")]
    assert train.__main__.main(args) == 0
    assert trained[0][0].data.name == "synthetic"


def test_options_of_a_run_without_a_checkpoint_are_not_used(tmp_path, trained, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    workdir = begun(tmp_path / "runs" / "digits", tiny(recipe="digits", seed=5))
    assert train.__main__.main(["train"]) == 0
    assert trained[0][0].seed == 0 and trained[0][0].model.depths is None
    assert train.__main__.main(["train", "--workdir", "runs/digits"]) == 2
    said = capsys.readouterr().err
    assert "holds config.json of a run that saved no checkpoint (recipe digits); to start" in said
    assert "resnet-jax train digits --workdir runs/digits" in said
    (workdir / "checkpoints" / "20").mkdir(parents=True)
    assert train.__main__.main(["train", "--workdir", "runs/digits"]) == 0
    assert trained[1][0].seed == 5


def test_which_process_this_is_belongs_to_a_start(tmp_path):
    mesh = MeshConfig(coordinator="node7:1234", processes=2, process_id=1, fsdp=2)
    config = tiny(mesh=mesh)
    workdir = begun(tmp_path, tiny(), "20")
    text = (workdir / "config.json").read_text()
    for name, old, new in (
        ("coordinator", "null", '"node7:1234"'),
        ("processes", "null", "2"),
        ("process_id", "null", "1"),
        ("fsdp", "1", "2"),
    ):
        assert f'"{name}": {old}' in text
        text = text.replace(f'"{name}": {old}', f'"{name}": {new}')
    (workdir / "config.json").write_text(text)
    stored = find_stored(["--workdir", str(workdir)])
    assert stored == (replace(config, mesh=MeshConfig(fsdp=2)), workdir)


@pytest.mark.parametrize("names", [("cat.jpg",), ("a", "b", "c", "d"), ("main.py", "lock")])
def test_a_folder_of_other_files_is_no_workdir(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"is not a run directory and not empty: it holds '.*'"):
        check_workdir(tmp_path, tiny())


def test_a_folder_of_a_start_or_of_logs_is_a_workdir(tmp_path):
    assert check_workdir(tmp_path / "new", tiny()) is None
    for name in ("lock", "metrics.jsonl", "checkpoints", ".DS_Store", "slurm-7.out", "config.tmp"):
        (tmp_path / name).touch()
    assert check_workdir(tmp_path, tiny()) is None


def test_a_rule_that_is_given_is_not_overwritten(tmp_path):
    old = tiny()
    old = replace(old, data=replace(old.data, order=1, held_out="by_place"))
    workdir = begun(tmp_path, old, "20")
    assert resumed_config(workdir, tiny()) == old
    given = resumed_config(workdir, tiny(), {"data.order", "data.held_out"})
    assert given == tiny()
    with pytest.raises(ConfigError, match=r"(?s)holds another run.*data.order: 1 -> 2"):
        check_workdir(workdir, given)


# What is said of a run that an older version began


def record(workdir: Path, **changes: object) -> None:
    """Changes what config.json says of the program that trained the run."""
    path = workdir / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_another_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(train.run.resume, "code_version", lambda: 40 * "b" + "+")
    here = versions()["resnet-jax"]
    workdir = begun(tmp_path, tiny(), "20")
    for same in ({"commit": 40 * "b" + "+"}, {"commit": None}, {"commit": None, "versions": None}):
        record(workdir, **same)
        assert describe_other_version(workdir) is None
    record(workdir, commit=40 * "a", versions={"resnet-jax": here})
    assert describe_other_version(workdir) == (
        f"this run was trained so far by resnet-jax {here} (commit aaaaaaaaaa); this is {here} "
        "(commit bbbbbbbbbb+): the batches are the same, but results may differ by rounding"
    )
    record(workdir, commit=None, versions={"resnet-jax": "0.0.1"})
    assert "by resnet-jax 0.0.1 (commit unknown); this is" in str(describe_other_version(workdir))
    latest = {"from_step": 20, "options": {}, "commit": 40 * "b" + "+", "versions": None}
    record(workdir, segments=[{"from_step": 0, "options": {}}, latest])
    assert describe_other_version(workdir) is None
    assert describe_other_version(tmp_path / "new") is None


def test_a_large_batch_keeps_no_old_run_from_its_end(tmp_path):
    """Refused for a new run only: see test_resume."""
    data = replace(tiny().data, name="synthetic", examples=40, classes=4)
    run = Run(tiny(data=data, batch_size=41), mesh=make_mesh(jax.devices()[:1]))
    said = "batch_size 41: there are 40 training images; the learning rate is scaled for 41; choose"
    [warning] = check_lengths(run, resumed=True)
    assert warning.startswith(said)
    with pytest.raises(ConfigError, match=said):
        check_lengths(run, resumed=False)
    fits = Run(tiny(data=data, batch_size=40), mesh=make_mesh(jax.devices()[:1]))
    assert check_lengths(fits, resumed=False) == []
