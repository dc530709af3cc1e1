"""train/data/sources/tfds.py: prepared TFDS data sets, read without TensorFlow."""

import errno
import io
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.examples import refusal
from train.config import DataConfig
from train.data.retry import is_temporary
from train.data.sources import open_splits
from train.data.sources.labels import count_labels, read_labels

ROOT = Path(__file__).parents[2]


def cifar(shared_data: Path, **options) -> DataConfig:
    return DataConfig(**{"name": "cifar10", "dir": str(shared_data / "tfds"), **options})


def test_the_labels_alone(shared_data):
    """Read in parts by threads, for class weights and balanced sampling."""
    config = cifar(shared_data, eval_split="test[:700]", threads=2)
    source = open_splits(config).eval
    expected = [source[i].label for i in range(700)]
    assert read_labels(source, config).tolist() == expected
    assert count_labels(source, config).sum() == 700


def test_cifar10_as_it_was_published(shared_data):
    train, test = open_splits(cifar(shared_data))
    assert (len(train), len(test)) == (50_000, 10_000)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"]
    names.append("truck")
    assert list(train.class_names) == names == list(test.class_names)
    assert (test.name(17), train.name(0)) == ("test[17]", "train[0]")
    assert [test[i].label for i in range(5)] == [7, 0, 6, 9, 5]
    assert [train[i].label for i in range(5)] == [7, 8, 4, 4, 6]
    image, label = test[9_999]
    assert isinstance(image, bytes) and type(label) is int
    pixels = np.asarray(Image.open(io.BytesIO(image)))
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert [test[i].label for i in range(0, 10_000, 100)].count(3) > 0


def test_cifar10_is_read_without_tensorflow(shared_data):
    code = f"""
import sys
from train.config import DataConfig
from train.data.sources import open_splits
source = open_splits(DataConfig(name="cifar10", dir={str(shared_data / "tfds")!r})).eval
from train.data.images.decode import decode
print(decode(source[0].image, max_pixels=1024).shape, source[0].label)
print(sorted({{"tensorflow", "jax", "torch"}} & set(sys.modules)))
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["(32, 32, 3) 7", "[]"], done.stderr


def test_tfds_slices_and_versions(shared_data):
    whole = open_splits(cifar(shared_data)).train
    config = cifar(shared_data, train_split="train[:10%]", eval_split="train[90%:]")
    first, last = open_splits(config)
    assert (len(first), len(last)) == (5_000, 5_000)
    assert first[4_999] == whole[4_999] and last[0] == whole[45_000]
    assert last.name(3) == "train[90%:][3]"
    version = open_splits(cifar(shared_data, name="cifar10:3.0.2", eval_split="test[:7]"))
    assert (len(version.train), len(version.eval)) == (50_000, 7)


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"name": "cifar10:9.9.9"}, ["'cifar10:9.9.9'", "3.0.2"]),
        ({"name": "cifar10:"}, ["'cifar10:'"]),
        ({"train_split": "validation"}, ["'validation'", "'train', 'test'"]),
        ({"eval_split": "validation"}, ["'validation'", "'train', 'test'"]),
        ({"eval_split": "test[:x]"}, ["'test[:x]'"]),
        ({"eval_split": "test[:0]"}, ["'test[:0]'"]),
        ({"name": "cifar100"}, ["'cifar100' is not prepared", "holds cifar10", "'.[prepare]'"]),
        ({"name": "digitz"}, ["'digitz'", "digits, folder, npz, synthetic", "data.dir"]),
    ],
    ids=str,
)
def test_tfds_that_is_not_there(shared_data, options, parts):
    config = cifar(shared_data, **options)
    message = refusal(config)
    assert [part for part in parts if part not in message] == []
    if "split" not in str(options):
        assert config.dir in message


def test_tfds_folder_that_is_not_there(tmp_path, monkeypatch):
    message = refusal(DataConfig(name="cifar10", dir=str(tmp_path / "none")))
    assert f"{tmp_path / 'none'} holds no data set" in message
    # and the default folder of TFDS, from its flag or the environment
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", tmp_path)
    assert f"is not prepared: {tmp_path} holds no data" in refusal(DataConfig(name="cifar10"))


METADATA = {
    "fileFormat": "tfrecord",
    "moduleName": "tensorflow_datasets.image_classification.cifar",
    "name": "cifar10",
    "version": "3.0.2",
    "splits": [
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": name,
            "numBytes": "0",
            "shardLengths": [size],
        }
        for name, size in (("train", "50000"), ("test", "10000"))
    ],
}


def test_tfrecord_is_refused_with_the_command_that_converts_it(shared_data, tmp_path):
    there = tmp_path / "cifar10" / "3.0.2"
    there.mkdir(parents=True)
    for name in ("features.json", "label.labels.txt"):
        shutil.copy(shared_data / "tfds/cifar10/3.0.2" / name, there)
    (there / "dataset_info.json").write_text(json.dumps(METADATA))
    for split in ("train", "test"):
        (there / f"cifar10-{split}.tfrecord-00000-of-00001").touch()
    message = refusal(DataConfig(name="cifar10", dir=str(tmp_path)))
    assert "tfrecord" in message and "array_record" in message and ".[prepare]" in message
    command = message.partition("tfds convert_format ")[2].split()
    assert command == [
        f"--dataset_version_dir={there}",
        "--out_file_format=array_record",
        "--out_dir=NEW_DIR",
    ]


def test_tfds_metadata_that_is_broken(tmp_path):
    (tmp_path / "mine" / "1.0.0").mkdir(parents=True)
    (tmp_path / "mine" / "1.0.0" / "dataset_info.json").write_text("{")
    (tmp_path / "mine" / "1.0.0" / "features.json").write_text("{")
    message = refusal(DataConfig(name="mine", dir=str(tmp_path)))
    assert "'mine'" in message and str(tmp_path) in message


def test_a_tfds_set_without_a_label_is_refused(shared_data, tmp_path):
    there = tmp_path / "mine" / "1.0.0"
    there.mkdir(parents=True)
    features = json.loads((shared_data / "tfds/cifar10/3.0.2/features.json").read_text())
    del features["featuresDict"]["features"]["label"]
    (there / "features.json").write_text(json.dumps(features))
    metadata = {**METADATA, "fileFormat": "array_record", "name": "mine", "version": "1.0.0"}
    (there / "dataset_info.json").write_text(json.dumps({**metadata, "moduleName": "mine.mine"}))
    message = refusal(DataConfig(name="mine", dir=str(tmp_path)))
    assert "'mine'" in message and "needs an image and a label" in message
    assert "'image'" in message.partition("has ")[2]


@pytest.fixture
def cifar10(shared_data, tmp_path) -> Path:
    """The file of test records of a copy."""
    shutil.copytree(shared_data / "tfds/cifar10", tmp_path / "cifar10")
    return tmp_path / "cifar10/3.0.2/cifar10-test.array_record-00000-of-00001"


def test_records_that_are_away_for_a_while(cifar10, tmp_path):
    source = open_splits(DataConfig(name="cifar10", dir=str(tmp_path))).eval
    away = cifar10.rename(tmp_path / "away")
    with pytest.raises(OSError, match="No such file") as error:
        source[0]
    assert not is_temporary(error.value)
    away.rename(cifar10)
    # ArrayRecord alone would never reopen the file
    assert [source[i].label for i in range(5)] == [7, 0, 6, 9, 5]


def test_records_that_cannot_be_opened_now(cifar10, tmp_path):
    source = open_splits(DataConfig(name="cifar10", dir=str(tmp_path))).eval
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # only the standard ones
    try:
        with pytest.raises(OSError) as error:
            source[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert error.value.errno == errno.EMFILE and is_temporary(error.value)
    assert source[0].label == 7


def test_damaged_records_are_bad_and_not_away(cifar10, tmp_path):
    source = open_splits(DataConfig(name="cifar10", dir=str(tmp_path))).eval
    cifar10.write_bytes(cifar10.read_bytes()[:1_000_000])
    with pytest.raises(OSError, match="Corrupted") as error:
        source[0]
    assert not is_temporary(error.value)
