"""train/data/sources/npz.py: what a file of arrays holds, exactly, and what is refused and how."""

import gc
import io

import numpy as np
import pytest

from tests.examples import refusal
from train.config import DataConfig
from train.data.sources import open_splits


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
