"""train/data/pipeline.py: evaluation reads every example once, in one or more processes."""

import numpy as np
import pytest

from tests.data.test_pipeline import DATA, N, assert_same, batches, column, evaluated, noise
from train.config import ConfigError, EvalConfig
from train.data.batch import HostBatch
from train.data.images.crops import eval_image
from train.data.pipeline import eval_batches

# --- evaluation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 20, 96])
def test_evaluation_sees_every_example_once(size):
    source = noise()
    found = evaluated(source, size)
    steps = -(-N // size)
    assert [len(batch["index"]) for batch in found] == [size] * steps
    padding = steps * size - N
    assert column(found, "index").tolist() == [*range(N), *[-1] * padding]
    assert column(found, "mask").tolist() == [1.0] * N + [0.0] * padding
    assert column(found, "label").tolist() == [*(source.labels), *[0] * padding]
    assert (column(found, "unreadable") == -1).all()
    np.testing.assert_array_equal(column(found, "image")[:N], source.images)
    assert not column(found, "image")[N:].any()


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("size", [4, 8, 96])
def test_evaluation_over_processes_sees_every_example_once(size, processes):
    source, whole = noise(), evaluated(noise(), size)
    parts = [evaluated(source, size, shard=(i, processes)) for i in range(processes)]
    assert {len(part) for part in parts} == {len(whole)}  # all take part in every step
    for step, batch in enumerate(whole):
        for key in batch:
            rows = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(rows, batch[key])


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_a_split_that_nothing_divides_is_evaluated_evenly(processes):
    size = -(-32 // processes) * processes  # rounded up as by the mesh: 33 for three processes
    source = noise(359)
    parts = [evaluated(source, size, shard=(i, processes)) for i in range(processes)]
    assert {len(part) for part in parts} == {-(-359 // size)}
    assert {len(batch["mask"]) for part in parts for batch in part} == {size // processes}
    indices = np.concatenate([column(part, "index") for part in parts])
    masks = np.concatenate([column(part, "mask") for part in parts])
    assert sorted(indices[masks == 1]) == list(range(359)) and (indices[masks == 0] == -1).all()
    assert_same(joined(parts), evaluated(source, size))


def joined(parts: list[list[HostBatch]]) -> list[HostBatch]:
    """Joins the rows of all processes to the global batches."""
    return [
        {key: np.concatenate([batch[key] for batch in rows]) for key in rows[0]}
        for rows in zip(*parts, strict=True)
    ]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_have_the_rows_of_one_process(processes):
    source = noise(35)
    parts = [batches(source, 12, 1, 8, shard=(i, processes)) for i in range(processes)]
    assert_same(joined(parts), batches(source, 12, 1, 8))


def test_a_batch_that_the_processes_do_not_divide_is_refused():
    for stream in (batches, lambda *_, shard: evaluated(noise(), 32, shard=shard)):
        with pytest.raises(ConfigError, match=r"batch of 32: does not divide over 3 processes"):
            stream(noise(), 32, 0, 1, shard=(0, 3))


def test_evaluation_resizes_and_crops():
    source = noise(size=9)
    config = EvalConfig(crop_fraction=0.5)
    found = list(eval_batches(source, DATA, config, batch_size=8))
    expected = [eval_image(x, 4, 0.5, max_pixels=100) for x in source.images]
    np.testing.assert_array_equal(column(found, "image")[:N], expected)
    assert not np.array_equal(
        expected, [eval_image(x, 4, 1.0, max_pixels=100) for x in source.images]
    )
