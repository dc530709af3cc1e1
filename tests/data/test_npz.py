"""train/data/sources/npz.py: the arrays that are read, and error messages."""

import dataclasses
import gc
import io
import os
import resource
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import train.data.sources.npz
from tests.examples import refusal
from train.config import DataConfig
from train.data.sources import open_splits
from train.runtime import available_memory


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
    """Grey images without a channel axis, uint8 labels [N, 1], and class names."""
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
        ({"y_test": np.zeros((3, 3), int)}, ["y_test is int64 (3, 3)", "argmax(axis=1)"]),
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
    """A compressed file whose first array begins with an invalid block type."""
    data = bytearray(file_bytes(np.savez_compressed, **arrays()))
    name, extra = (int.from_bytes(data[at : at + 2], "little") for at in (26, 28))
    data[30 + name + extra] |= 0b110
    return bytes(data)


def with_method(method: int) -> bytes:
    """A file whose first array declares another compression method."""
    data = bytearray(file_bytes(np.savez_compressed, **arrays()))
    at = data.index(b"PK\x01\x02")  # the directory, which counts
    data[at + 10] = method
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
        with_method(99),
        with_method(14),
    ],
    ids=["empty", "text", "truncated", "pickled", "npy", "damaged", "method 99", "LZMA"],
)
# NumPy leaves the file open when zipfile refuses it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_file_that_is_no_npz(tmp_path, data):
    path = tmp_path / "data.npz"
    path.write_bytes(data)
    assert str(path) in refusal(DataConfig(name="npz", dir=str(path)))
    gc.collect()  # closes that file while its warning is ignored


def test_npz_that_is_not_there(tmp_path):
    path = tmp_path / "none.npz"
    assert f"{str(path)!r}: no such file" in refusal(DataConfig(name="npz", dir=str(path)))


# --- labels ---------------------------------------------------------------------------------------


def quickly(config: DataConfig) -> str:
    """The error message, which must come within a second and without much memory."""
    before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    message = refusal(config)
    assert time.perf_counter() - since < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    return message


@pytest.mark.parametrize(
    "labels",
    [
        np.array([20_000_001, 20_000_002, 20_000_003] * 2),
        np.array([1, 2**40, 5] * 2),
        np.array([1, 2**63, 2**64 - 1] * 2, np.uint64),
    ],
    ids=["20 million", "2**40", "uint64"],
)
def test_ids_are_refused_at_once_or_numbered(npz, labels):
    config = npz(y_train=labels, y_test=labels[:3])
    message = quickly(config)
    assert str(labels.max()) in message and "--data.remap_labels True" in message
    splits = open_splits(dataclasses.replace(config, remap_labels=True))
    values = sorted(int(v) for v in set(labels.tolist()))
    assert list(splits.train.class_names) == [str(v) for v in values]
    for source in splits:
        found = [int(source.class_names[source[i].label]) for i in range(len(source))]
        assert found == [int(v) for v in labels[: len(source)]]
    assert "are numbered 0..2" in splits.notes[0] and str(values[0]) in splits.notes[0]


def test_names_of_ids_say_that_they_are_meant(npz):
    """With as many names as different labels, the names are in ascending order of the labels."""
    config = npz(
        y_train=np.array([30, 10, 20, 10, 20, 30]),
        y_test=np.array([20, 10, 30]),
        class_names=np.array(["ten", "twenty", "thirty"]),
    )
    train, test = splits = open_splits(config)
    assert [train.class_names[train[i].label] for i in range(3)] == ["thirty", "ten", "twenty"]
    assert [test[i].label for i in range(3)] == [1, 0, 2]
    assert "10 ('ten'), 20 ('twenty'), 30 ('thirty') are numbered 0..2" in splits.notes[0]


def test_a_third_split(npz):
    more = {"x_val": arrays()["x_test"][:2], "y_val": np.array([1, 0])}
    config = dataclasses.replace(npz(**more), eval_split="val", test_split="test")
    splits = open_splits(config)
    assert splits.counts == {"train": 6, "eval": 2, "test": 3}
    assert splits.eval[0].label == 1 and splits.test.name(0) == "test[0]"
    same = open_splits(dataclasses.replace(config, eval_split="test"))  # as `eval` may do
    assert len(same.eval) == len(same.test) == 3
    assert len(open_splits(dataclasses.replace(config, test_split="")).eval) == 3
    message = refusal(dataclasses.replace(config, test_split="exam"))
    assert "no array x_exam, y_exam; it holds" in message


def test_ids_of_the_test_split_must_be_known(npz):
    config = npz(y_train=np.array([7, 9] * 3), y_test=np.array([9, 7, 8]))
    message = refusal(dataclasses.replace(config, remap_labels=True))
    assert message.endswith("y_test[2] is 8, which y_train never has")


def test_a_wrong_number_of_names_is_refused(npz):
    config = npz(class_names=np.array(["a", "b", "c", "d"]))
    message = refusal(dataclasses.replace(config, remap_labels=True))
    assert "class_names has 4 names, and y_train 3 different labels" in message


@pytest.mark.parametrize("kind", [np.str_, np.bytes_])
def test_names_may_be_bytes_of_utf8(npz, kind):
    names = np.array(["café", "tea", "水"])
    names = np.char.encode(names, "utf-8") if kind is np.bytes_ else names
    assert list(open_splits(npz(class_names=names)).train.class_names) == ["café", "tea", "水"]


def test_names_that_are_no_text_are_refused(npz):
    names = np.array([b"caf\xe9", b"tea", b"x"])
    assert "class_names holds bytes that are not UTF-8 text" in quickly(npz(class_names=names))


@pytest.mark.parametrize(
    "labels, parts",
    [
        (np.eye(3)[[0, 1, 2, 2, 1, 0]], ["float64 (6, 3)", "one-hot", "y_train.argmax(axis=1)"]),
        (np.eye(6, dtype=np.int8), ["int8 (6, 6)", "one-hot"]),
        (np.array([0.0, 1, 2, 2, 1, 0]), ["float64 (6,)", "y_train.astype(int)"]),
        (np.arange(6).astype("m8[s]"), ["timedelta64[s] (6,); needs 6 integers"]),
        (np.array([True, False] * 3), ["bool (6,)", "y_train.astype(int)"]),
        (np.array([-1, 1] * 3), ["y_train[0] is -1", "labels are 0..1", "--data.remap_labels"]),
        (np.zeros(6, int), ["all of y_train is 0", "at least two classes"]),
        (np.zeros((6, 1, 1), int), ["int64 (6, 1, 1)", "one label for each image of x_train"]),
    ],
    ids=str,
)
def test_labels_that_are_no_labels(npz, labels, parts):
    message = quickly(npz(y_train=labels))
    assert [part for part in parts if part not in message] == []


def test_classes_without_images_are_reported(npz):
    splits = open_splits(npz(y_train=np.array([0, 1, 4] * 2)))
    assert splits.notes[-1].endswith("2 of 5 classes have no training images: '2', '3'")


# --- sizes ----------------------------------------------------------------------------------------


def with_header(path: Path, key: str, shape: tuple[int, ...], content: bytes = b"") -> DataConfig:
    """A file with an array of this shape in its header, but only `content` as its data."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays().items():
            data = file_bytes(np.save, array)
            if name == key:
                file = io.BytesIO()
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                data = file.getvalue() + content
            archive.writestr(f"{name}.npy", data)
    return DataConfig(name="npz", dir=str(path))


def test_an_array_that_claims_more_than_the_file_holds(tmp_path):
    config = with_header(tmp_path / "a.npz", "x_train", (10**8, 200, 200))
    message = quickly(config)
    assert "x_train should be uint8 [100000000, 200, 200], 4.0 TB" in message
    assert "the file holds 0 bytes of it" in message


def test_arrays_larger_than_the_memory_are_refused_from_their_headers(tmp_path, monkeypatch):
    config = with_header(tmp_path / "a.npz", "x_train", (6, 1000, 1000), bytes(6 * 10**6))
    assert Path(config.dir).stat().st_size < 20_000
    monkeypatch.setattr(train.data.sources.npz, "available_memory", lambda: 5 * 10**6)
    message = quickly(config)
    assert "its arrays need 6.0 MB of memory, and 5.0 MB are available" in message
    assert "--data.name folder" in message
    monkeypatch.setattr(train.data.sources.npz, "available_memory", lambda: None)
    assert open_splits(config).train.images.shape == (6, 1000, 1000, 1)


def test_other_arrays_of_the_file_are_not_read(npz):
    """The other array is pickled, and would be refused if it were read."""
    splits = open_splits(npz(notes=np.array([{}], object)))
    assert len(splits.train) == 6


def test_available_memory_is_that_of_the_system():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = available_memory()
    assert available is None or 10**6 < available <= total
