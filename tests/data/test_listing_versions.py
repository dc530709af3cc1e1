"""data.listing: a run keeps the rule that listed its files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.examples import names, picture
from tests.runs import tiny
from train.config import DataConfig
from train.config.serialize import keep_versions, to_json, with_versions
from train.data.sources import Splits, image_files, open_splits
from train.data.sources.listing import Skipped, subfolders
from train.run.data_changes import check_data, open_eval_data
from train.run.directory import read_config, write_config
from train.run.parts import Run


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes of 10 files that both rules list, and 4 that one of them lists."""
    for name in ("a", "b"):
        for file in [*(f"{i}.png" for i in range(10)), "g.gif", "t.tif"]:
            picture(tmp_path / "photos" / name / file)
        for file in (".h.jpg", ".ipynb_checkpoints/1-checkpoint.png"):
            picture(tmp_path / "photos" / name / file)
    return tmp_path / "photos"


def everything(splits: Splits) -> list[str]:
    return sorted(names(splits.train) + names(splits.eval))


def test_both_rules(photos):
    config = DataConfig(name="folder", dir=str(photos), eval_fraction=0.5)
    both = [f"{name}/{i}.png" for name in "ab" for i in range(10)]
    new = [f"{name}/{file}" for name in "ab" for file in ("g.gif", "t.tif")]
    old = [f"{n}/{f}" for n in "ab" for f in (".h.jpg", ".ipynb_checkpoints/1-checkpoint.png")]
    assert everything(open_splits(config)) == sorted(both + new)
    splits = open_splits(replace(config, listing=1))
    assert everything(splits) == sorted(both + old)
    assert "*.gif: 2 (a/g.gif, b/g.gif)" in splits.notes[0]


def test_a_run_from_before_keeps_its_files(photos, tmp_path):
    """The config.json of this run has neither the rule nor a list of files."""
    data = DataConfig(
        name="folder", dir=str(photos), listing=1, held_out="by_place", eval_split="val"
    )
    workdir = tmp_path / "run"
    workdir.mkdir()
    write_config(workdir, Run(tiny(data=data)), 0)
    path = workdir / "config.json"
    content = json.loads(path.read_text())
    del content["files"], content["data"]["listing"], content["data"]["held_out"]
    path.write_text(json.dumps(content))
    (workdir / "files.json.gz").unlink()

    given = tiny(data=replace(data, listing=2, held_out="by_name"))
    again = keep_versions(read_config(workdir), given)
    assert again.data.listing == 1
    assert check_data(workdir, Run(again)) == []
    splits, notes = open_eval_data(workdir, read_config(workdir))
    assert names(splits.eval) == names(open_splits(data).eval)
    assert not [note for note in notes if "changed" in note]


def test_folders_that_a_system_adds_are_never_data(tmp_path):
    for name in ("cat/1.png", "cat/@eaDir/1.png", "@eaDir/cat/1.png", "__MACOSX/cat/1.png"):
        picture(tmp_path / name)
    skipped = Skipped()
    assert subfolders(tmp_path, skipped) == [tmp_path / "cat"]
    assert image_files(tmp_path / "cat", skipped) == [tmp_path / "cat/1.png"]
    assert "system folder: 3 (@eaDir, __MACOSX, ...)" in skipped.describe(tmp_path)


def test_the_rule_of_runs_between_two_versions(photos, tmp_path):
    """The config.json of these runs has `held_out`; the second rule listed their files."""
    config = tiny(data=DataConfig(name="folder", dir=str(photos)))
    tree = to_json(config)
    del tree["data"]["listing"]
    assert with_versions(tree)["data"]["listing"] == 2
    del tree["data"]["held_out"]
    assert with_versions(tree)["data"]["listing"] == 1
