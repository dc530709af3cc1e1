"""train/run/data_changes.py: data that changed since a run began, and data of another run."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.examples import names, picture
from tests.runs import tiny
from train.config import ConfigError, DataConfig, RunConfig
from train.distributed.processes import Processes
from train.run.data_changes import check_data, file_digests, open_eval_data
from train.run.directory import read_config, write_config
from train.run.parts import Run


@pytest.fixture
def photos(tmp_path) -> Path:
    """40 files of two classes, 8 +- 2.5 of them held out."""
    for i in range(40):
        picture(tmp_path / "photos" / "ab"[i % 2] / f"{i:02}.png", i)
    return tmp_path / "photos"


def begin(photos: Path, workdir: Path, **options) -> RunConfig:
    """The config of a run on these photos that has written its config.json."""
    data = DataConfig(name="folder", dir=str(photos), eval_split="val", **options)
    config = tiny(data=data)
    workdir.mkdir()
    write_config(workdir, Run(config), 0)
    return config


@pytest.fixture
def run(photos, tmp_path) -> RunConfig:
    return begin(photos, tmp_path / "run")


def held_out(run: RunConfig) -> list[str]:
    return names(Run(run).splits.eval)


def forget(workdir: Path) -> None:
    """Makes config.json that of a run from before the file list was kept."""
    path = workdir / "config.json"
    content = json.loads(path.read_text())
    del content["files"], content["data"]["held_out"]
    path.write_text(json.dumps(content))
    (workdir / "files.json.gz").unlink()


# --- a resume -------------------------------------------------------------------------------------


def test_the_same_files_are_the_same_run(run, photos, tmp_path):
    assert check_data(tmp_path / "run", Run(run)) == []
    photos.rename(tmp_path / "moved")
    moved = replace(run, data=replace(run.data, dir=str(tmp_path / "moved")))
    assert check_data(tmp_path / "run", Run(moved)) == []
    assert check_data(tmp_path / "nothing here", Run(moved)) == []


def test_one_added_and_one_removed_is_another_training_set(run, photos, tmp_path):
    """As many as before: only their names tell."""
    train = names(Run(run).splits.train)
    (photos / train[0]).unlink()
    new = next(f"a/new{i}.png" for i in range(9) if not added_is_held_out(run, photos, i))
    assert len(Run(run).splits.train) == len(train)
    with pytest.raises(ConfigError) as error:
        check_data(tmp_path / "run", Run(run))
    message = str(error.value)
    assert f"have changed: 1 added ({new}), 1 removed ({train[0]}). A resume needs" in message
    assert "another --workdir" in message and "--init.weights FILE.safetensors" in message


def added_is_held_out(run: RunConfig, photos: Path, i: int) -> bool:
    """Adds a file, and takes it back if it is held out."""
    file = picture(photos / f"a/new{i}.png")
    if held := f"a/new{i}.png" in held_out(run):
        file.unlink()
    return held


def test_changed_evaluation_files_are_reported(run, photos, tmp_path):
    gone = held_out(run)[0]
    (photos / gone).unlink()
    (note,) = check_data(tmp_path / "run", Run(run))
    assert note == (
        f"the evaluation files of {str(tmp_path / 'run')!r} have changed: 1 removed ({gone})"
    )


def test_without_the_names_the_numbers_are_said(run, photos, tmp_path):
    (photos / names(Run(run).splits.train)[0]).unlink()
    (tmp_path / "run" / "files.json.gz").write_bytes(b"damaged")
    count = 40 - len(held_out(run))
    with pytest.raises(ConfigError, match=f"changed: {count} files then, {count - 1} now"):
        check_data(tmp_path / "run", Run(run))


def test_a_run_from_before_is_compared_by_its_size(run, photos, tmp_path):
    forget(tmp_path / "run")
    old = replace(run, data=read_config(tmp_path / "run").data)
    assert old.data.held_out == "by_place"
    check = lambda: check_data(tmp_path / "run", Run(old))  # noqa: E731
    content = json.loads((tmp_path / "run/config.json").read_text())
    content["examples"] = {"train": 32, "eval": 8}  # that rule's
    (tmp_path / "run/config.json").write_text(json.dumps(content))
    assert check() == []
    picture(photos / "a/new.png")
    with pytest.raises(ConfigError, match=r"its examples were .*32.*now has .*33"):
        check()


def test_processes_must_have_the_same_files(run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    (tmp_path / "copy" / names(Run(run).splits.train)[0]).unlink()
    other = Run(replace(run, data=replace(run.data, dir=str(tmp_path / "copy"))))

    class Two(Processes):
        def gather(self, value):
            return [value, file_digests(other)]

    count = len(Run(run).splits.train)
    message = (
        rf"'{count} files, \w{{12}}'.* in process 0, but .*'{count - 1} files, .* in process 1"
    )
    with pytest.raises(ConfigError, match=message):
        Two().check_same("the files", file_digests(Run(run)))
    photos.rename(tmp_path / "moved")
    moved = Run(replace(run, data=replace(run.data, dir=str(tmp_path / "moved"))))
    assert file_digests(moved) != file_digests(other)
    assert file_digests(Run(tiny())) == {}


# --- an evaluation --------------------------------------------------------------------------------


def evaluated(run: RunConfig, workdir: Path, **options) -> tuple[list[str], list[str]]:
    """(files, notes) of an evaluation with other options."""
    config = replace(run, data=replace(run.data, **options))
    splits, notes = open_eval_data(workdir, config)
    return names(splits.eval), notes


def test_an_added_file_never_brings_training_images_into_an_evaluation(run, photos, tmp_path):
    before, notes = evaluated(run, tmp_path / "run")
    assert before == held_out(run) and notes == []
    for i in range(20):
        picture(photos / f"a/more{i}.png")
    after, notes = evaluated(run, tmp_path / "run")
    new = [name for name in after if name not in before]
    assert [name for name in after if name in before] == before
    assert new and all("more" in name for name in new)
    assert "training files" in notes[0] and f": {20 - len(new)} added (a/more" in notes[0]
    assert "evaluation files" in notes[1] and f": {len(new)} added (a/more" in notes[1]


def test_training_images_that_are_evaluated_are_named(run, photos, tmp_path):
    files, (note,) = evaluated(run, tmp_path / "run", eval_fraction=0.6)
    seen = [name for name in files if name not in held_out(run)]
    assert note == (
        f"{len(seen)} of {len(files)} evaluated images were trained on: {', '.join(seen[:3])}, ..."
    )


@pytest.mark.parametrize("spelling", ["trailing", "relative", "link", "dots"])
def test_other_spellings_of_the_folder_are_the_folder(run, photos, tmp_path, spelling, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(photos)
    path = {
        "trailing": f"{photos}/",
        "relative": "photos",
        "link": str(tmp_path / "link"),
        "dots": str(photos / ".." / "photos"),
    }[spelling]
    assert evaluated(run, tmp_path / "run", dir=path) == (held_out(run), [])


def test_a_run_on_a_relative_folder_is_known_from_anywhere(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = begin(Path("photos"), tmp_path / "run")
    expected = held_out(run)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluated(run, tmp_path / "run", dir=os.path.relpath(photos)) == (expected, [])


def test_another_folder_is_evaluated_whole(run, tmp_path):
    for i in range(7):
        picture(tmp_path / "other" / "ba"[i % 2] / f"{i:02}.png", i)
    files, notes = evaluated(run, tmp_path / "run", dir=str(tmp_path / "other"))
    assert len(files) == 7
    assert notes == [
        f"evaluating all 7 images of {tmp_path / 'other'}, which is not the run's folder"
    ]


def test_a_part_of_the_runs_own_folder_is_recognised(tmp_path):
    """Trained on DIR/train, evaluated on all of DIR/train, as if it were another folder."""
    for split, count in (("train", 6), ("val", 4)):
        for i in range(count):
            picture(tmp_path / "data" / split / "ab"[i % 2] / f"{i}.png", i)
    run = begin(tmp_path / "data", tmp_path / "run")
    files, notes = evaluated(run, tmp_path / "run", dir=str(tmp_path / "data/train"))
    assert len(files) == 6
    assert notes[1].startswith("6 of 6 evaluated images were trained on: train/a/0.png, ")
    files, notes = evaluated(run, tmp_path / "run", dir=str(tmp_path / "data/val"))
    assert len(files) == 4 and len(notes) == 1


def test_another_folder_of_the_same_names_is_another_folder(run, photos, tmp_path):
    """Cameras number their photos: names alone do not make a copy."""
    for path in photos.rglob("*.png"):
        picture(tmp_path / "other" / path.relative_to(photos), 255)
    files, notes = evaluated(run, tmp_path / "run", dir=str(tmp_path / "other"))
    assert len(files) == 40 and len(notes) == 1 and "not the run's folder" in notes[0]


def test_a_copy_of_the_runs_folder_is_split_as_in_training(run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    files, notes = evaluated(run, tmp_path / "run", dir=str(tmp_path / "copy"))
    assert files == held_out(run)
    assert notes == [f"{tmp_path / 'copy'} holds the run's data: it is split as in training"]


def test_another_folder_may_lack_classes_but_has_no_others(run, tmp_path):
    picture(tmp_path / "other/b/1.png")
    config = replace(run, data=replace(run.data, dir=str(tmp_path / "other")))
    splits, _ = open_eval_data(tmp_path / "run", config)
    assert splits.eval[0].label == 1 and list(splits.eval.class_names) == ["a", "b"]
    picture(tmp_path / "other/c/1.png")
    with pytest.raises(ConfigError, match="class 'c' has no training images"):
        open_eval_data(tmp_path / "run", config)


def test_another_folder_with_splits(run, tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "val/b/2.png"):
        picture(tmp_path / "other" / name)
    files, _ = evaluated(run, tmp_path / "run", dir=str(tmp_path / "other"))
    assert files == ["val/a/1.png", "val/b/1.png", "val/b/2.png"]


def test_a_run_from_before_warns_when_its_share_is_drawn_anew(photos, tmp_path):
    begin(photos, tmp_path / "run", held_out="by_place")
    forget(tmp_path / "run")
    run = tiny(data=read_config(tmp_path / "run").data)
    assert evaluated(run, tmp_path / "run")[1] == []
    picture(photos / "a/00a.png")
    files, (note,) = evaluated(run, tmp_path / "run")
    assert "32" in note and "33" in note and "images that were trained on may be evaluated" in note
    assert len(files) == 8
