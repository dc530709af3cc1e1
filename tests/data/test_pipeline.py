"""train/data/pipeline.py: a batch is a pure function of (config, step)."""

import dataclasses
import gc
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.config import AugmentConfig, ConfigError, DataConfig, EvalConfig
from train.data.batch import HostBatch
from train.data.images.crops import eval_image
from train.data.order import example_indices
from train.data.pipeline import eval_batches, train_batches
from train.data.readers import BadExample
from train.data.sources import ArraySource, Example, FolderSource, Source, open_splits

N = 20
DATA = DataConfig(image_size=4, threads=0)
PAD = AugmentConfig(crop="pad", pad=2)  # 25 crops, mirrored or not: 50 views
PLAIN = AugmentConfig(crop="none", flip=False)


def noise(count: int = N, size: int = 4, depth: int = 3, classes: int = 5) -> ArraySource:
    """Different images, whose views all differ too; labels 0, 1, ..., 0, 1, ..."""
    pixels = np.random.default_rng(0).integers(1, 256, (count, size, size, depth), np.uint8)
    names = [f"class {i}" for i in range(classes)]
    return ArraySource(pixels, np.arange(count) % classes, names, "test")


def batches(source: Source, size: int, start: int, stop: int, **options) -> list[HostBatch]:
    """Training batches, with defaults for these tests."""
    options = {"data": DATA, "augment": PAD, "seed": 0, **options}
    return list(train_batches(source, batch_size=size, start=start, stop=stop, **options))


def evaluated(source: Source, size: int, data: DataConfig = DATA, **options) -> list[HostBatch]:
    config = EvalConfig(crop_fraction=1.0)
    return list(eval_batches(source, data, config, batch_size=size, **options))


def column(found: list[HostBatch], key: str) -> np.ndarray:
    return np.concatenate([batch[key] for batch in found])


def assert_same(found: list[HostBatch], expected: list[HostBatch]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def order(seed: int, epoch: int, count: int = N) -> list[int]:
    """The order of an epoch, taken from its batch."""
    [batch] = batches(noise(count), count, epoch, epoch + 1, seed=seed, augment=PLAIN)
    return batch["index"].tolist()


# --- what a batch is -----------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3])
def test_batch_holds_what_it_says(depth):
    source = noise(depth=depth)
    found = batches(source, 6, 0, 2, augment=PLAIN)
    assert len(found) == 2
    for batch in found:
        assert {key: (x.shape, x.dtype.name) for key, x in batch.items()} == {
            "image": ((6, 4, 4, depth), "uint8"),
            "label": ((6,), "int32"),
            "mask": ((6,), "float32"),
            "index": ((6,), "int32"),
            "unreadable": ((6,), "int32"),
            "retried": ((6,), "int32"),
        }
        np.testing.assert_array_equal(batch["image"], source.images[batch["index"]])
        np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])
        assert (batch["mask"] == 1).all() and (batch["unreadable"] == -1).all()
        assert not batch["retried"].any()


@pytest.mark.parametrize("crop", ["random_resized", "pad", "none"])
def test_one_channel_stays_one_channel(crop):
    source = noise(depth=1, size=6)
    assert source.channels == 1
    [batch] = batches(source, 5, 0, 1, augment=AugmentConfig(crop=crop))
    assert batch["image"].shape == (5, 4, 4, 1) and batch["image"].any()
    for batch in evaluated(source, 8):
        assert batch["image"].shape == (8, 4, 4, 1)
    assert noise().channels == 3


def test_no_steps_are_no_batches():
    assert batches(noise(), 6, 3, 3) == []


# --- the order -----------------------------------------------------------------------------------


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = [order(0, epoch) for epoch in range(30)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(N))] * 30
    assert len({tuple(epoch) for epoch in epochs}) == 30
    assert list(range(N)) not in epochs
    # any example may come first: the mean of 600 draws from 0..19 is 9.5 +- 0.24
    assert abs(np.mean([epoch[:10] for epoch in epochs]) - 9.5) < 1
    assert len({epoch[0] for epoch in epochs}) > 10


def test_seeds_do_not_share_epochs_not_even_shifted_ones():
    seen = {(seed, epoch): tuple(order(seed, epoch)) for seed in range(6) for epoch in range(6)}
    assert len(set(seen.values())) == 36
    # nor is it the same order from another start
    rotated = [o[i:] + o[:i] for o in seen.values() for i in range(N)]
    assert len(set(rotated)) == 36 * N


def test_large_seeds_are_seeds_too():
    orders = {tuple(order(seed, 0)) for seed in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)}
    assert len(orders) == 5


@pytest.mark.parametrize("count", [1, 2, 257])
def test_sources_of_any_size_are_shuffled(count):
    epochs = [order(3, epoch, count) for epoch in range(12)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(count))] * 12
    assert len({tuple(epoch) for epoch in epochs}) == min(12, count)


def test_epochs_follow_each_other_inside_a_batch():
    whole = np.concatenate([order(0, epoch) for epoch in range(7)])
    found = batches(noise(), 12, 0, 11)  # 132 examples: 6 epochs and 12
    assert [len(batch["index"]) for batch in found] == [12] * 11
    np.testing.assert_array_equal(column(found, "index"), whole[:132])


def test_a_batch_may_be_larger_than_the_source():
    whole = np.concatenate([order(0, epoch) for epoch in range(5)])
    found = batches(noise(), 50, 0, 2)
    np.testing.assert_array_equal(column(found, "index"), whole)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
@pytest.mark.parametrize("count, size", [(20, 6), (20, 20), (7, 30), (1, 3), (257, 256)])
def test_the_examples_of_a_step_are_known_without_reading_them(count, size, seed):
    found = batches(noise(count), size, 0, 5, seed=seed, augment=PLAIN)
    for step, batch in enumerate(found):  # an epoch ends in some of these steps
        indices = example_indices(count, seed, size, step)
        assert indices.dtype == np.int64
        np.testing.assert_array_equal(indices, batch["index"])


def test_the_examples_of_a_late_step_are_known():
    [batch] = batches(noise(), 6, 12345, 12346)
    assert example_indices(N, 0, 6, 12345).tolist() == batch["index"].tolist()


# --- the same batch from anywhere ----------------------------------------------------------------


@pytest.mark.parametrize("start", [1, 3, 4])
def test_a_stream_that_starts_later_is_the_same(start):
    whole = batches(noise(), 6, 0, 8)  # an epoch ends within step 3
    assert_same(batches(noise(), 6, start, 8), whole[start:])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_the_rows_of_the_same_global_batch(processes):
    whole = batches(noise(), 8, 1, 6)
    parts = [batches(noise(), 8, 1, 6, shard=(i, processes)) for i in range(processes)]
    assert {len(part) for part in parts} == {5}
    for step, batch in enumerate(whole):
        for key in batch:
            rows = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(rows, batch[key])


@pytest.mark.parametrize("prefetch", [1, 3])
@pytest.mark.parametrize("threads", [1, 4])
def test_threads_change_nothing(threads, prefetch):
    data = dataclasses.replace(DATA, threads=threads, prefetch=prefetch)
    source = noise()
    assert_same(batches(source, 6, 1, 8, data=data), batches(source, 6, 1, 8))
    assert_same(evaluated(source, 6, data), evaluated(source, 6))


def test_workers_change_nothing():
    data = dataclasses.replace(DATA, threads=2, workers=2)
    source = noise()
    assert_same(batches(source, 6, 1, 6, data=data), batches(source, 6, 1, 6))


# --- files that are no images --------------------------------------------------------------------


def png(value: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def photos(root: Path, bad: dict[int, bytes], count: int = 8) -> FolderSource:
    """Files root/0.png, ...; those in `bad` have other content. Labels are the numbers."""
    files = [root / f"{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        file.write_bytes(bad.get(i, png(i)))
    return FolderSource(root, files, range(count), [str(i) for i in range(count)])


BAD = {2: b"a text, and no image", 3: png(3)[:60], 7: b""}
SKIP = dataclasses.replace(DATA, on_bad_image="skip")


@pytest.mark.parametrize("threads", [0, 4])
@pytest.mark.parametrize("place", BAD)
def test_bad_image_is_named(tmp_path, place, threads):
    source = photos(tmp_path, {place: BAD[place]})
    data = dataclasses.replace(DATA, threads=threads)
    for stream in (lambda: batches(source, 8, 0, 1, data=data), lambda: evaluated(source, 3, data)):
        with pytest.raises(BadExample) as error:
            stream()
        message = str(error.value)
        assert message.startswith(f"{place}.png: ")  # relative to the folder
        assert "--data.on_bad_image skip" in message
    assert issubclass(BadExample, ConfigError)


def test_bad_image_is_named_by_workers(tmp_path):
    data = dataclasses.replace(DATA, workers=2)
    with pytest.raises(BadExample, match=r"^2\.png: not an image"):
        batches(photos(tmp_path, {2: BAD[2]}), 8, 0, 2, data=data)


def test_bad_image_is_replaced_in_training_by_the_next_one(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    whole = batches(photos(tmp_path / "good", {}), 5, 0, 6, data=SKIP)
    found = batches(photos(tmp_path / "bad", BAD), 5, 0, 6, data=SKIP)
    requested, used = column(whole, "index"), column(found, "index")
    replacement = {2: 4, 3: 4, 7: 0}  # 3 is unreadable too; after the last comes the first
    assert used.tolist() == [replacement.get(i, i) for i in requested.tolist()]
    assert column(found, "unreadable").tolist() == [
        i if i in BAD else -1 for i in requested.tolist()
    ]
    assert column(found, "label").tolist() == used.tolist()
    assert (column(found, "mask") == 1).all()
    good = ~np.isin(requested, list(BAD))
    np.testing.assert_array_equal(column(found, "image")[good], column(whole, "image")[good])
    # the replacement's view is a function of (seed, epoch, its own index)
    epochs = np.arange(len(requested)) // 8
    own = {
        (int(e), int(i)): x
        for e, i, x in zip(epochs, requested, column(whole, "image"), strict=True)
    }
    for epoch, index, image in zip(epochs, used, column(found, "image"), strict=True):
        if (int(epoch), int(index)) in own:
            np.testing.assert_array_equal(image, own[int(epoch), int(index)])


def test_replaced_images_do_not_depend_on_the_start(tmp_path):
    source = photos(tmp_path, BAD)
    data = dataclasses.replace(SKIP, threads=4)
    assert_same(batches(source, 5, 2, 6, data=data), batches(source, 5, 0, 6, data=SKIP)[2:])


def test_bad_image_is_masked_in_evaluation(tmp_path):
    source = photos(tmp_path, BAD)
    found = evaluated(source, 3, SKIP)
    assert column(found, "index").tolist() == [0, 1, -1, -1, 4, 5, 6, -1, -1]
    assert column(found, "unreadable").tolist() == [-1, -1, 2, 3, -1, -1, -1, 7, -1]
    assert column(found, "mask").tolist() == [1, 1, 0, 0, 1, 1, 1, 0, 0]
    assert column(found, "label").tolist() == [0, 1, 0, 0, 4, 5, 6, 0, 0]
    for i, image in zip(column(found, "index"), column(found, "image"), strict=True):
        expected = eval_image(png(i), 4, 1.0, max_pixels=100) if i >= 0 else np.zeros_like(image)
        np.testing.assert_array_equal(image, expected)


def test_workers_evaluate_every_example_once(tmp_path):
    source = photos(tmp_path, BAD)
    data = dataclasses.replace(SKIP, workers=2)
    expected = evaluated(source, 4, SKIP, shard=(1, 2))
    assert_same(evaluated(source, 4, data, shard=(1, 2)), expected)


@pytest.mark.parametrize("gone", [0, 5])
def test_a_file_that_is_gone_is_a_bad_image(tmp_path, gone):
    source = photos(tmp_path, {})
    source.files[gone].unlink()
    for stream in (lambda: batches(source, 8, 0, 1), lambda: evaluated(source, 3)):
        with pytest.raises(BadExample, match=rf"^{gone}\.png: "):
            stream()
    assert gone in column(batches(source, 8, 0, 1, data=SKIP), "unreadable")
    assert column(evaluated(source, 8, SKIP), "unreadable").tolist() == [
        gone if i == gone else -1 for i in range(8)
    ]


def test_an_image_of_too_many_pixels_is_a_bad_image(tmp_path):
    source = photos(tmp_path, {})
    data = dataclasses.replace(DATA, max_pixels=35)
    for stream in (lambda: batches(source, 8, 0, 1, data=data), lambda: evaluated(source, 3, data)):
        with pytest.raises(BadExample, match=r"^\d\.png: 6x6 pixels.* 35 "):
            stream()
    assert evaluated(source, 8, dataclasses.replace(data, max_pixels=36))[0]["mask"].all()


def test_training_without_a_readable_image_is_refused(tmp_path):
    source = photos(tmp_path, dict.fromkeys(range(8), b"no image"))
    with pytest.raises(BadExample, match="no example of the training split can be read"):
        batches(source, 4, 0, 1, data=SKIP)


@dataclass(frozen=True)
class Mislabelled:
    """A source whose example 3 has a given label."""

    label: int
    class_names: Sequence[str] = ("ape", "bee", "cat")
    channels: int = 3

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Example:
        return Example(noise(6)[index].image, self.label if index == 3 else index % 3)

    def name(self, index: int) -> str:
        return f"split[{index}]"


@pytest.mark.parametrize("label", [3, -1, 255])
def test_label_out_of_range_is_named(label):
    source = Mislabelled(label)
    for stream in (lambda: batches(source, 6, 0, 1), lambda: evaluated(source, 4)):
        with pytest.raises(ConfigError) as error:
            stream()
        assert str(error.value) == f"split[3]: label {label} is not in 0..2"


def test_labels_at_the_ends_of_the_range_are_good():
    for label in (0, 2):
        assert evaluated(Mislabelled(label), 6)[0]["label"].tolist() == [0, 1, 2, label, 1, 2]


# --- real data -----------------------------------------------------------------------------------


def test_cifar10_through_the_pipeline(shared_data):
    gc.collect()  # Grain's semaphores cannot be freed while TFDS is imported in its own way
    data = DataConfig(name="cifar10", dir=str(shared_data / "tfds"), image_size=32, threads=0)
    train, test = open_splits(data)
    augment = AugmentConfig(crop="pad", pad=4)
    threaded = dataclasses.replace(data, threads=4)
    # 390.6 steps an epoch: the first one ends within step 390
    whole = batches(train, 128, 389, 392, data=threaded, augment=augment)
    assert_same(batches(train, 128, 391, 392, data=data, augment=augment), whole[2:])
    half = batches(train, 128, 390, 391, data=data, augment=augment, shard=(1, 2))
    np.testing.assert_array_equal(half[0]["image"], whole[1]["image"][64:])
    assert [train[i].label for i in whole[0]["index"]] == whole[0]["label"].tolist()
    some = next(iter(eval_batches(test, data, EvalConfig(crop_fraction=1.0), batch_size=96)))
    assert some["label"][:5].tolist() == [7, 0, 6, 9, 5] and some["mask"].all()
    first = np.asarray(Image.open(io.BytesIO(test[0].image)))
    np.testing.assert_array_equal(some["image"][0], first)
