"""train/run/data_changes.py: a run's own data in another place are never evaluated unnoticed."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.examples import picture
from tests.run.test_data_changes import begin, evaluated, forget, held_out
from train.config import RunConfig
from train.run.directory import read_config


@pytest.fixture
def photos(tmp_path) -> Path:
    """40 files of two classes."""
    for i in range(40):
        picture(tmp_path / "photos" / "ab"[i % 2] / f"{i:02}.png", i)
    return tmp_path / "photos"


@pytest.fixture
def run(photos, tmp_path) -> RunConfig:
    return begin(photos, tmp_path / "run")


def test_a_copy_with_another_file_is_split_as_in_training(run, photos, tmp_path):
    copy = shutil.copytree(photos, tmp_path / "copy")
    for i in range(10):
        picture(copy / f"a/more{i}.png", 99)
    files, notes = evaluated(run, tmp_path / "run", dir=str(copy))
    assert [name for name in files if "more" not in name] == held_out(run)
    assert notes[0] == f"{copy} holds the run's data: it is split as in training"
    assert "training files" in notes[1] and " added (a/more" in notes[1]


def test_a_copy_without_some_files_is_split_as_in_training(run, photos, tmp_path):
    copy = shutil.copytree(photos, tmp_path / "copy")
    expected = held_out(run)
    for name in ("a/00.png", "b/01.png", "b/39.png"):
        (copy / name).unlink()
    files, _ = evaluated(run, tmp_path / "run", dir=str(copy))
    assert files and set(files) <= set(expected)


def test_a_copy_as_a_validation_split_names_the_training_images(run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "deep/val")
    files, (note, seen) = evaluated(run, tmp_path / "run", dir=str(tmp_path / "deep"))
    trained = 40 - len(held_out(run))
    assert len(files) == 40 and "evaluating all 40 images" in note
    assert seen.startswith(f"{trained} of 40 evaluated images were trained on: a/")


def test_a_copy_of_the_training_split_names_the_training_images(tmp_path):
    for i in range(12):
        picture(tmp_path / "data" / ("val", "train")[i > 3] / "ab"[i % 2] / f"{i}.png", i)
    run = begin(tmp_path / "data", tmp_path / "run")
    shutil.copytree(tmp_path / "data/train", tmp_path / "copy")
    files, notes = evaluated(run, tmp_path / "run", dir=str(tmp_path / "copy"))
    assert len(files) == 8
    assert notes[1].startswith("8 of 8 evaluated images were trained on: train/a/10.png, ")


def test_names_that_cannot_be_compared_by_content_are_reported_as_such(run, tmp_path):
    """16 of the training files have a digest; these names are of others."""
    files = json.loads((tmp_path / "run/config.json").read_text())["files"]
    name = next(
        name
        for i in range(40)
        if (name := f"{'ab'[i % 2]}/{i:02}.png") not in {*files["sample"], *held_out(run)}
    )
    picture(tmp_path / "other" / name, 200)
    _, notes = evaluated(run, tmp_path / "run", dir=str(tmp_path / "other"))
    assert notes[1] == (
        f"1 of 1 evaluated images may have been trained on (same class and name): {name}"
    )


def test_a_run_from_before_is_split_as_in_training_where_its_data_have_moved(photos, tmp_path):
    begin(photos, tmp_path / "run", held_out="by_place")
    forget(tmp_path / "run")
    run = RunConfig(data=read_config(tmp_path / "run").data)
    expected = held_out(run)
    photos.rename(tmp_path / "moved")
    files, (note,) = evaluated(run, tmp_path / "run", dir=str(tmp_path / "moved"))
    assert files == expected and len(files) == 8
    assert note.endswith("it is split as in training")
    picture(tmp_path / "moved/a/more.png")
    files, (note,) = evaluated(run, tmp_path / "run", dir=str(tmp_path / "moved"))
    assert len(files) == 41 and "may have been trained on" in note


def test_the_folder_is_written_without_dots(run, photos, tmp_path):
    picture(tmp_path / "other/a/new.png")
    path = tmp_path / "nowhere" / ".." / "other"
    _, notes = evaluated(run, tmp_path / "run", dir=str(path))
    assert notes[0].startswith(f"evaluating all 1 images of {tmp_path / 'other'}, which")


def test_a_run_with_one_digest_of_its_sample_knows_its_data(run, photos, tmp_path):
    """As earlier versions wrote it: the SHA-256 of those of the sampled files."""
    path = tmp_path / "run/config.json"
    content = json.loads(path.read_text())
    digests = (hashlib.sha256((photos / n).read_bytes()) for n in content["files"]["sample"])
    joint = hashlib.sha256(b"".join(digest.digest() for digest in digests))
    content["files"]["sample"] = joint.hexdigest()
    path.write_text(json.dumps(content))
    copy = shutil.copytree(photos, tmp_path / "copy")
    picture(copy / "a/more.png", 99)
    files, notes = evaluated(run, tmp_path / "run", dir=str(copy))
    assert [name for name in files if "more" not in name] == held_out(run)
    assert notes[0].endswith("it is split as in training")
