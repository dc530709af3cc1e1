"""train/data/sources.py: what each source holds, exactly, and what is refused and how."""

import dataclasses
import errno
import gc
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

from train.config import ConfigError, DataConfig, RunError
from train.data.retry import is_passing
from train.data.sources import Example, Splits, open_splits

ROOT = Path(__file__).parents[1]


def refusal(config: DataConfig) -> str:
    """The message of the ConfigError; any other exception, or warning, is a failure."""
    with pytest.raises(ConfigError) as error:
        open_splits(config)
    return str(error.value)


def contents(splits: Splits) -> tuple[list[Example], list[Example]]:
    train, test = ([source[i] for i in range(len(source))] for source in splits)
    return train, test


def same(a: list[Example], b: list[Example]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.image, y.image) and x.label == y.label for x, y in zip(a, b, strict=True)
    )


# --- digits --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's own reading of the digits, 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # 255/16 of an integer below 17 is never half way between two integers but at 8: 127.5
    return np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1), labels


def test_digits_are_all_there_once_and_pixel_for_pixel(original):
    train, test = contents(open_splits(DataConfig(name="digits")))
    assert (len(train), len(test)) == (1438, 359)
    for image, label in [train[0], test[-1]]:
        assert image.shape == (8, 8, 1) and image.dtype == np.uint8 and type(label) is int
    expected = sorted((x.tobytes(), int(y)) for x, y in zip(*original, strict=True))
    assert len(set(expected)) == 1797  # no two are the same: a repeat would show
    assert sorted((x.tobytes(), y) for x, y in train + test) == expected


def test_digits_keep_their_order_within_a_part(original):
    place = {x.tobytes(): i for i, x in enumerate(original[0])}
    for part in contents(open_splits(DataConfig(name="digits"))):
        places = [place[image.tobytes()] for image, _ in part]
        assert places == sorted(places)


def test_digits_names():
    splits = open_splits(DataConfig(name="digits"))
    assert list(splits.train.class_names) == list("0123456789") == list(splits.eval.class_names)
    assert (splits.train.name(17), splits.eval.name(3)) == ("train[17]", "test[3]")


def test_held_out_share_is_chosen_by_split_seed_alone():
    base = DataConfig(name="digits")
    first = contents(open_splits(base))
    again = dataclasses.replace(
        base,
        image_size=8,
        threads=0,
        prefetch=7,
        on_bad_image="skip",
        examples=5,
        classes=3,
        mean=(0.5,),
        max_pixels=1,
    )
    np.random.seed(5)  # the global generator has no say
    for a, b in zip(first, contents(open_splits(again)), strict=True):
        assert same(a, b)
    other = contents(open_splits(dataclasses.replace(base, split_seed=1)))
    assert len(other[1]) == 359
    held, held_too = ({x.tobytes() for x, _ in part} for part in (first[1], other[1]))
    # 20 % of 20 % are held out by both: 71.7 +- 7 if the two draws are independent
    assert 40 < len(held & held_too) < 105


@pytest.mark.parametrize("fraction, held", [(0.2, 359), (0.5, 898), (0.1, 180), (0.999, 1795)])
def test_held_out_share_is_as_large_as_asked(fraction, held):
    splits = open_splits(DataConfig(name="digits", eval_fraction=fraction))
    assert (len(splits.train), len(splits.eval)) == (1797 - held, held)


def test_share_that_leaves_nothing_is_refused():
    message = refusal(DataConfig(name="digits", eval_fraction=0.0001))
    assert message == "data 'digits': split 'test' has no examples"


# --- folder --------------------------------------------------------------------------------------


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path) -> Path:
    """DIR/{train,val}/CLASS/*, written in no particular order; `value` of a picture is unique."""
    names = ["train/zebra/2.png", "train/Ape/b.JPG", "train/Ape/a.jpeg", "val/zebra/x.webp"]
    names += ["train/cat/1.bmp", "train/zebra/10.png", "val/cat/1.png", "train/cat/deep/er/0.png"]
    for value, name in enumerate(names):
        picture(tmp_path / name, 20 * value)
    for name in ("train/cat/notes.txt", "train/.hidden/1.png", "train/readme.md", "val/cat/a.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture to train on")
    return tmp_path


def folder(root: Path, **options) -> DataConfig:
    return DataConfig(name="folder", dir=str(root), **{"eval_split": "val", **options})


def test_folder_with_splits(photos):
    train, val = open_splits(folder(photos))
    assert list(train.class_names) == ["Ape", "cat", "zebra"] == list(val.class_names)
    assert [(train.name(i), train[i].label) for i in range(len(train))] == [
        ("train/Ape/a.jpeg", 0),
        ("train/Ape/b.JPG", 0),
        ("train/cat/1.bmp", 1),
        ("train/cat/deep/er/0.png", 1),
        ("train/zebra/10.png", 2),
        ("train/zebra/2.png", 2),
    ]
    # val has no Ape: cat is 1 there as well
    assert [(val.name(i), val[i].label) for i in range(len(val))] == [
        ("val/cat/1.png", 1),
        ("val/zebra/x.webp", 2),
    ]
    for source in (train, val):
        for i in range(len(source)):
            assert source[i].image == (photos / source.name(i)).read_bytes()


def test_folder_splits_may_have_other_names(photos):
    (photos / "val").rename(photos / "held_out")
    splits = open_splits(folder(photos, eval_split="held_out"))
    assert (len(splits.train), len(splits.eval)) == (6, 2)
    assert splits.eval.name(0) == "held_out/cat/1.png"


def test_folder_of_classes_is_cut_by_the_fraction(tmp_path):
    for i in range(20):
        picture(tmp_path / "ab"[i % 2] / f"{i:02}.png", i)
    config = folder(tmp_path, eval_fraction=0.25)
    train, val = open_splits(config)
    assert list(train.class_names) == ["a", "b"] == list(val.class_names)
    names = [[source.name(i) for i in range(len(source))] for source in (train, val)]
    assert [len(part) for part in names] == [15, 5]
    whole = sorted(f"{'ab'[i % 2]}/{i:02}.png" for i in range(20))
    assert sorted(names[0] + names[1]) == whole
    for source, part in zip((train, val), names, strict=True):
        assert part == sorted(part)
        assert [source[i].label for i in range(len(part))] == ["ab".index(n[0]) for n in part]
    again, other = open_splits(config), open_splits(dataclasses.replace(config, split_seed=1))
    assert [again.eval.name(i) for i in range(5)] == names[1]
    assert [other.eval.name(i) for i in range(5)] != names[1]


def test_home_folder_is_expanded(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert len(open_splits(folder(Path("~") / photos.name)).train) == 6


def test_folder_that_is_not_there(tmp_path):
    message = refusal(folder(tmp_path / "nowhere"))
    assert message == f"data.dir {str(tmp_path / 'nowhere')!r}: no such folder"
    (tmp_path / "file").write_text("")
    assert "no such folder" in refusal(folder(tmp_path / "file"))


def test_split_that_is_not_there(photos):
    (photos / "val").rename(photos / "test")
    message = refusal(folder(photos))
    assert str(photos) in message and "no 'val' folder" in message
    assert message.endswith("it holds test, train")
    (photos / "train").rename(photos / "training")
    (photos / "test").rename(photos / "val")
    assert "no 'train' folder" in refusal(folder(photos))


def test_class_in_val_that_is_not_in_train(photos):
    picture(photos / "val/dog/1.png", 9)
    message = refusal(folder(photos))
    assert str(photos / "val") in message and "class 'dog' has no training images" in message
    assert message.endswith("Ape, cat, zebra")


@pytest.mark.parametrize("split", ["train", "val"])
def test_class_folder_without_images(photos, split):
    (photos / split / "cat" / "extra").mkdir()
    for path in (photos / split / "cat").rglob("*.*"):
        path.unlink()
    message = refusal(folder(photos))
    assert message.startswith(f"{photos / split / 'cat'}: no images") and ".jpeg" in message


def test_folder_without_class_folders(tmp_path):
    picture(tmp_path / "1.png", 1)
    message = refusal(folder(tmp_path))
    assert message.startswith(f"{tmp_path}: no class folders") and "CLASS" in message
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    assert refusal(folder(tmp_path)).startswith(f"{tmp_path / 'train'}: no class folders")


def test_a_folder_named_like_an_image_is_no_image(photos):
    (photos / "train/cat/9.png").mkdir()
    source = open_splits(folder(photos)).train
    assert "train/cat/9.png" not in [source.name(i) for i in range(len(source))]


# --- npz -----------------------------------------------------------------------------------------


def arrays(**changes) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    good = {
        "x_train": draw.integers(0, 256, (6, 5, 4, 3), np.uint8),
        "y_train": np.array([0, 1, 2, 2, 1, 0]),
        "x_test": draw.integers(0, 256, (3, 5, 4, 3), np.uint8),
        "y_test": np.array([2, 0, 2]),
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


@pytest.fixture
def npz(tmp_path):
    """Writes arrays to a file, and returns the config that reads it."""

    def write(**changes) -> DataConfig:
        path = tmp_path / "data.npz"
        np.savez(path, **arrays(**changes))
        return DataConfig(name="npz", dir=str(path))

    return write


def test_npz_holds_what_was_saved(npz):
    splits, saved = open_splits(npz()), arrays()
    for split, source in zip(("train", "test"), splits, strict=True):
        assert len(source) == len(saved[f"x_{split}"])
        assert list(source.class_names) == ["0", "1", "2"]
        assert source.name(1) == f"{split}[1]"
        for i in range(len(source)):
            image, label = source[i]
            assert image.dtype == np.uint8 and type(label) is int
            np.testing.assert_array_equal(image, saved[f"x_{split}"][i])
            assert label == saved[f"y_{split}"][i]


def test_npz_as_keras_saves_it(npz):
    """Grey images without a channel, labels [N, 1] of uint8, and names of the classes."""
    config = npz(
        x_train=arrays()["x_train"][..., 0],
        x_test=arrays()["x_test"][..., :1],
        y_train=arrays()["y_train"].astype(np.uint8)[:, None],
        class_names=np.array(["ape", "bee", "cat", "dog"]),
    )
    train, test = open_splits(config)
    np.testing.assert_array_equal(train[3].image, arrays()["x_train"][3, ..., :1])
    np.testing.assert_array_equal(test[2].image, arrays()["x_test"][2, ..., :1])
    assert [train[i].label for i in range(6)] == [0, 1, 2, 2, 1, 0]
    assert list(train.class_names) == ["ape", "bee", "cat", "dog"] == list(test.class_names)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_npz_labels_may_fill_their_type(npz, dtype):
    top = min(np.iinfo(dtype).max, 255)
    labels = np.array([0, 1, 2, 3, top - 1, top], dtype)
    splits = open_splits(npz(y_train=labels, y_test=labels[-3:]))
    assert len(splits.train.class_names) == top + 1
    assert [splits.train[i].label for i in range(6)] == labels.tolist()


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"y_test": None}, ["no array y_test", "it holds x_train, y_train, x_test"]),
        ({"x_train": None, "y_train": None}, ["no array x_train, y_train", "x_test, y_test"]),
        ({"x_train": np.zeros((6, 5, 4, 3))}, ["x_train is float64 (6, 5, 4, 3)", "uint8 [N, H"]),
        ({"x_test": np.zeros((3, 5, 4, 3), int)}, ["x_test is int64", "needs uint8"]),
        ({"x_train": np.zeros((6, 20), np.uint8)}, ["x_train is uint8 (6, 20)", "[N, H, W]"]),
        ({"x_train": np.zeros((6, 5, 4, 4), np.uint8)}, ["x_train", "(6, 5, 4, 4)", "1 or 3"]),
        ({"x_test": np.zeros((3, 1, 5, 4, 3), np.uint8)}, ["x_test", "(3, 1, 5, 4, 3)"]),
        ({"y_train": np.arange(5)}, ["y_train is int64 (5,)", "needs 6 integers"]),
        ({"y_test": np.zeros((3, 3), int)}, ["y_test is int64 (9,)", "needs 3 integers"]),
        ({"y_train": np.zeros(6)}, ["y_train is float64 (6,)", "needs 6 integers"]),
        ({"y_test": np.array(["a", "b", "c"])}, ["y_test is <U1", "needs 3 integers"]),
        ({"y_test": np.array([0, 3, 1])}, ["y_test[1] is 3", "labels are 0..2"]),
        ({"y_test": np.array([0, 1, -1])}, ["y_test[2] is -1", "labels are 0..2"]),
        ({"y_train": np.array([0, -2, 1, 1, 1, 1])}, ["y_train[1] is -2", "labels are 0..1"]),
        ({"class_names": np.array(["a", "b"])}, ["y_train[2] is 2", "labels are 0..1"]),
    ],
    ids=str,
)
def test_npz_that_is_malformed(npz, changes, parts):
    config = npz(**changes)
    message = refusal(config)
    assert [part for part in (config.dir, *parts) if part not in message] == []


def test_npz_without_training_examples(npz):
    empty = {"x_train": np.zeros((0, 5, 4, 3), np.uint8), "y_train": np.zeros(0, int)}
    assert "split 'train' has no examples" in refusal(npz(**empty))
    none = {"x_test": np.zeros((0, 5, 4, 3), np.uint8), "y_test": np.zeros(0, int)}
    assert "split 'test' has no examples" in refusal(npz(**none))


def file_bytes(save, *args, **kwargs) -> bytes:
    file = io.BytesIO()
    save(file, *args, **kwargs)
    return file.getvalue()


def damaged() -> bytes:
    """A compressed file whose first array begins with a block of a kind that there is not."""
    data = bytearray(file_bytes(np.savez_compressed, **arrays()))
    name, extra = (int.from_bytes(data[at : at + 2], "little") for at in (26, 28))
    data[30 + name + extra] |= 0b110
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, I am no archive",
        file_bytes(np.savez, **arrays())[:500],
        file_bytes(np.savez, **arrays(y_train=np.array([{}] * 6, object))),
        file_bytes(np.save, arrays()["x_train"]),
        damaged(),
    ],
    ids=["empty", "text", "truncated", "pickled", "npy", "damaged"],
)
# NumPy leaves the file open when zipfile refuses it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_file_that_is_no_npz(tmp_path, data):
    path = tmp_path / "data.npz"
    path.write_bytes(data)
    assert str(path) in refusal(DataConfig(name="npz", dir=str(path)))
    gc.collect()  # that file, while the warning of it is let pass


def test_npz_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):
        message = refusal(DataConfig(name="npz", dir=str(path)))
        assert f"{str(path)!r}: no such file" in message


# --- synthetic -----------------------------------------------------------------------------------


def test_synthetic_images_are_a_function_of_split_and_index():
    config = DataConfig(name="synthetic", examples=64, classes=7, image_size=5)
    train, test = contents(open_splits(config))
    assert len(train) == len(test) == 64
    assert train[0].image.shape == (5, 5, 3) and train[0].image.dtype == np.uint8
    again = contents(open_splits(dataclasses.replace(config, split_seed=9, threads=0)))
    assert same(train, again[0]) and same(test, again[1])
    assert len({x.tobytes() for x, _ in train + test}) == 128  # no two alike, in and across splits
    assert {y for _, y in train} == set(range(7))
    pixels = np.stack([x for x, _ in train])
    assert pixels.min() == 0 and pixels.max() == 255 and abs(pixels.mean() - 127.5) < 5
    splits = open_splits(config)
    assert list(splits.train.class_names) == list("0123456")
    assert (splits.train.name(3), splits.eval.name(3)) == ("train[3]", "test[3]")


# --- TFDS ----------------------------------------------------------------------------------------


def cifar(shared_data: Path, **options) -> DataConfig:
    return DataConfig(**{"name": "cifar10", "dir": str(shared_data / "tfds"), **options})


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
from train.data.images import decode
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
        ({"name": "cifar100"}, ["'cifar100'", "digits, folder, npz, synthetic", "there: cifar10"]),
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
    # and the default place of TFDS, as the flag or the environment has it
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
    assert "tfrecord" in message and "array_record" in message and "resnet-jax[prepare]" in message
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
    """A copy's file of test records."""
    shutil.copytree(shared_data / "tfds/cifar10", tmp_path / "cifar10")
    return tmp_path / "cifar10/3.0.2/cifar10-test.array_record-00000-of-00001"


def test_records_that_are_away_for_a_while(cifar10, tmp_path):
    source = open_splits(DataConfig(name="cifar10", dir=str(tmp_path))).eval
    away = cifar10.rename(tmp_path / "away")
    with pytest.raises(OSError, match="No such file") as error:
        source[0]
    assert not is_passing(error.value)
    away.rename(cifar10)
    # ArrayRecord alone would go on with the file that it could not open
    assert [source[i].label for i in range(5)] == [7, 0, 6, 9, 5]


def test_records_that_cannot_be_opened_now(cifar10, tmp_path):
    source = open_splits(DataConfig(name="cifar10", dir=str(tmp_path))).eval
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # none but the standard ones
    try:
        with pytest.raises(OSError) as error:
            source[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert error.value.errno == errno.EMFILE and is_passing(error.value)
    assert source[0].label == 7


def test_damaged_records_are_bad_and_not_away(cifar10, tmp_path):
    source = open_splits(DataConfig(name="cifar10", dir=str(tmp_path))).eval
    cifar10.write_bytes(cifar10.read_bytes()[:1_000_000])
    with pytest.raises(OSError, match="Corrupted") as error:
        source[0]
    assert not is_passing(error.value)


def test_data_on_a_disk_that_fails(tmp_path):
    (tmp_path / "data.npz").symlink_to("/proc/self/mem")
    config = DataConfig(name="npz", dir=str(tmp_path / "data.npz"), retries=1)
    with pytest.raises(RunError, match=r"data\.npz: .*Input/output error.* tried 2 times"):
        open_splits(config)


@pytest.mark.parametrize("name", ["folder", "npz"])
def test_data_that_needs_a_path_says_so(name):
    for nothing in (None, ""):
        message = refusal(DataConfig(name=name, dir=nothing))
        assert "data.dir" in message and repr(name) in message and "--data.dir PATH" in message
