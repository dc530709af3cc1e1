"""train/data/sources/tfds.py: the choice of the image feature and the label feature."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples import refusal
from tests.runs import tiny
from train.config import ConfigError, DataConfig
from train.config.serialize import keep_versions
from train.data.sources import open_splits
from train.run.data_changes import open_eval_data
from train.run.directory import read_config, write_config
from train.run.parts import Run

ROOT = Path(__file__).parents[2]
IMAGE = {
    "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
    "image": {"shape": {"dimensions": ["8", "8", "3"]}, "dtype": "uint8"},
}


def label(classes: int) -> dict:
    name = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
    return {"pythonClassName": name, "classLabel": {"numClasses": str(classes)}}


LABELS = {name: label(2 + i) for i, name in enumerate(("wake", "age", "person", "dark", "young"))}


def prepared(root: Path, features: dict, supervised: list[str] | None = None, **more) -> DataConfig:
    """A TFDS data set with this metadata, without records and without code."""
    folder = root / "mine" / "1.0.0"
    folder.mkdir(parents=True)
    kind = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    written = {"pythonClassName": kind, "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(written))
    split = {"filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "numBytes": "9"}
    info = {
        "fileFormat": "array_record",
        "moduleName": "mine.mine",
        "name": "mine",
        "version": "1.0.0",
        "splits": [{**split, "name": name, "shardLengths": ["8"]} for name in ("train", "test")],
    }
    if supervised:
        items = [{"featureKey": key} for key in supervised]
        info["supervisedKeys"] = {"tuple": {"items": items}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for name in ("train", "test"):
        (folder / f"mine-{name}.array_record-00000-of-00001").touch()
    return DataConfig(name="mine", dir=str(root), **more)


def found(config: DataConfig) -> tuple[str, str, int]:
    """(image, label, number of classes)."""
    splits = open_splits(config)
    train = splits.train
    assert splits.chosen == {"image_key": train.image_key, "label_key": train.label_key}
    return train.image_key, train.label_key, len(train.class_names)


@pytest.mark.parametrize(
    "features, supervised, options, expected",
    [
        (LABELS, ["image", "person"], {}, ("image", "person", 4)),
        (LABELS, ["image", "person"], {"label_key": "age"}, ("image", "age", 3)),
        (LABELS, None, {"label_key": "young"}, ("image", "young", 6)),
        ({"label": label(9), **LABELS}, None, {}, ("image", "label", 9)),
        ({"label": label(9), **LABELS}, ["image", "wake"], {}, ("image", "wake", 2)),
        ({"kind": label(3)}, None, {}, ("image", "kind", 3)),
        ({"kind": label(3)}, ["image", "image"], {}, ("image", "kind", 3)),  # an autoencoder's
        ({"left": IMAGE, "kind": label(3)}, None, {}, ("image", "kind", 3)),
        ({"left": IMAGE, "kind": label(3)}, ["left", "kind"], {}, ("left", "kind", 3)),
        ({"left": IMAGE, "kind": label(3)}, None, {"image_key": "left"}, ("left", "kind", 3)),
    ],
)
def test_the_key_that_is_named_declared_the_only_one_or_usual(
    tmp_path, features, supervised, options, expected
):
    config = prepared(tmp_path, {"image": IMAGE, **features}, supervised, **options)
    assert found(config) == expected


def test_what_is_not_clear_is_refused_with_the_choices(tmp_path):
    config = prepared(tmp_path / "a", {"image": IMAGE, **LABELS})
    message = refusal(config)
    assert "5 features that may be the label: 'age', 'dark', 'person', 'wake', 'young'" in message
    assert message.endswith("choose one: --data.label_key NAME")
    config = prepared(tmp_path / "b", {"left": IMAGE, "right": IMAGE, "kind": label(2)})
    message = refusal(config)
    assert "2 features that may be the image: 'left', 'right'" in message
    assert message.endswith("choose one: --data.image_key NAME")


def test_a_label_that_was_chosen_among_several_is_said(tmp_path):
    config = prepared(tmp_path, {"image": IMAGE, **LABELS}, ["image", "person"])
    note = "mine: the label is 'person', one of 5 (data.label_key)"
    assert open_splits(config).notes == [note]
    named = DataConfig(name="mine", dir=config.dir, label_key="person")
    assert open_splits(named).notes == []


def test_one_class_is_refused(tmp_path):
    message = refusal(prepared(tmp_path, {"image": IMAGE, "kind": label(1)}))
    assert message.startswith("data 'mine': has one class only, '0'. A network needs at least two")


def test_a_key_that_is_none_is_refused_with_the_choices(tmp_path):
    config = prepared(tmp_path, {"image": IMAGE, **LABELS}, label_key="image")
    message = refusal(config)
    assert message.startswith("data.label_key 'image': no label of 'mine'; choose from age, dark,")


def test_every_process_reads_the_same_label(tmp_path):
    """TFDS returns the features in the order of a set, which depends on Python's hash seed."""
    config = prepared(tmp_path, {"image": IMAGE, **LABELS}, ["image", "person"])
    code = f"""
import json
from train.config import DataConfig
from train.data.sources import open_splits
source = open_splits(DataConfig(name="mine", dir={config.dir!r})).train
print(source.image_key, source.label_key, *source.class_names)
"""
    answers = set()
    for seed in ("1", "2", "3"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        answers.add(done.stdout)
    assert answers == {"image person 0 1 2 3\n"}


def test_a_run_keeps_its_keys(tmp_path):
    """config.json has the keys; a resume without these options, and an evaluation, use them."""
    data = prepared(tmp_path / "data", {"image": IMAGE, **LABELS}, label_key="age")
    (tmp_path / "run").mkdir()
    write_config(tmp_path / "run", Run(tiny(data=data)), 0)
    began = read_config(tmp_path / "run")
    assert (began.data.image_key, began.data.label_key) == ("image", "age")
    unnamed = tiny(data=DataConfig(name="mine", dir=data.dir))
    assert keep_versions(began, unnamed).data.label_key == "age"
    splits, notes = open_eval_data(tmp_path / "run", began)
    assert len(splits.eval.class_names) == 3 and notes == []
    other = tiny(data=DataConfig(name="mine", dir=data.dir, label_key="dark"))
    with pytest.raises(ConfigError, match="its class names were"):
        open_eval_data(tmp_path / "run", other)


def test_a_run_from_before_has_no_keys_and_they_are_found(tmp_path):
    data = prepared(tmp_path / "data", {"image": IMAGE, **LABELS}, ["image", "person"])
    (tmp_path / "run").mkdir()
    write_config(tmp_path / "run", Run(tiny(data=data)), 0)
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    assert content["data"].pop("label_key") == "person" and content["data"].pop("image_key")
    path.write_text(json.dumps(content))
    began = read_config(tmp_path / "run")
    assert began.data.label_key is None
    assert len(open_eval_data(tmp_path / "run", began)[0].eval.class_names) == 4
