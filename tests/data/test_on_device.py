"""train/data/on_device.py, train/run/dispatch.py: the host's batches, cropped on the devices."""

import contextlib
import dataclasses
import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import train.run.dispatch
from tests.data.test_pipeline import BAD, DATA, PAD, PLAIN, SKIP, batches, noise, photos
from tests.run.test_fit import content
from tests.runs import tiny
from train.config import AugmentConfig, ConfigError, DataConfig, RunError
from train.data import on_device as module
from train.data.on_device import crop_params, lives_on_devices, stacked, upload
from train.data.order import example_indices
from train.data.philox import first_words
from train.data.readers import BadExample
from train.data.sources import ArraySource, Splits, open_splits
from train.distributed.mesh import make_mesh
from train.distributed.signals import StopSignal
from train.run.dispatch import MAX_STEPS, SECONDS, ChunkSizer, MultiStep
from train.run.evaluate import evaluate
from train.run.fit import fit
from train.run.metrics import NonFinite, Window
from train.run.parts import Run
from train.run.trainer import Trainer


def on_devices(source, size, start, stop, devices, *, data=DATA, augment=PAD, seed=0, balance=None):
    """The host's crop parameters and the device's batches of a resident training set."""
    mesh = make_mesh(devices)
    found = upload(source, data, augment, mesh, report=pytest.fail)
    order = {"seed": seed, "batch_size": size, "start": start, "stop": stop}
    order |= {"order": data.order, "balance": balance}
    host = list(crop_params(len(source), augment, replacement=found.replacement, **order))
    return host, [found.put(each) for each in host]


def assert_same_batches(source, size, start, stop, devices, **options):
    expected = batches(source, size, start, stop, **options)
    host, found = on_devices(source, size, start, stop, devices, **options)
    assert len(found) == len(expected) == stop - start
    for here, there, batch in zip(host, found, expected, strict=True):
        for key in ("image", "label", "mask"):
            assert there[key].dtype == batch[key].dtype
            np.testing.assert_array_equal(there[key], batch[key], err_msg=key)
        np.testing.assert_array_equal(here["crops"][:, 0], batch["index"])
        np.testing.assert_array_equal(here["unreadable"], batch["unreadable"])


# --- the draw ------------------------------------------------------------------------------------


def test_many_keys_at_once_are_numpys_philox():
    keys = np.random.default_rng(0).integers(0, 2**64, (200, 2), np.uint64)
    keys[:3] = [[0, 0], [2**64 - 1, 2**64 - 1], [2**32 - 1 << 32 | 7, 3]]
    expected = [np.random.Philox(key=key).random_raw(4) for key in keys]
    np.testing.assert_array_equal(first_words(keys), expected)


@pytest.mark.parametrize(
    "augment",
    [PAD, PLAIN, replace(PAD, flip=False), replace(PLAIN, flip=True), replace(PAD, pad=0)],
    ids=["pad+flip", "plain", "pad", "flip", "pad 0"],
)
def test_batches_are_the_hosts(augment, devices):
    """Odd sizes, a start in the middle, and batches that span epochs."""
    source = noise(21, size=5, depth=1)
    data = replace(DATA, image_size=5)
    assert_same_batches(source, 6, 2, 11, devices[:1], data=data, augment=augment, seed=2**32 - 1)


def test_a_batch_may_be_larger_than_the_source(devices):
    assert_same_batches(noise(7), 24, 1, 4, devices)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_any_number_of_devices_has_the_same_batches(count, devices):
    data = DataConfig(name="digits", image_size=8, threads=0)
    augment = AugmentConfig(crop="pad", pad=1, flip=False)
    source = open_splits(data).train
    assert_same_batches(source, 64, 20, 25, devices[:count], data=data, augment=augment)


def test_images_are_resized_as_the_host_does(devices):
    source = noise(9, size=11)
    assert_same_batches(source, 4, 0, 5, devices[:1], data=replace(DATA, image_size=6))


def test_unreadable_images_are_replaced_as_the_host_does(tmp_path, devices):
    source = photos(tmp_path, BAD)
    assert_same_batches(source, 5, 0, 6, devices[:1], data=SKIP)
    with pytest.raises(BadExample, match=r"^2.png: .*--data.on_bad_image skip"):
        on_devices(source, 5, 0, 1, devices[:1])
    (tmp_path / "none").mkdir()
    nothing = photos(tmp_path / "none", dict.fromkeys(range(8), b""))
    with pytest.raises(BadExample, match="no example of the training split can be read"):
        on_devices(nothing, 5, 0, 1, devices[:1], data=SKIP)


def test_each_device_cuts_its_own_rows(devices):
    """There is no communication between devices, and each one holds only its part of the batch."""
    found = upload(noise(), DATA, PAD, make_mesh(devices), report=pytest.fail)
    [host] = crop_params(len(noise()), PAD, seed=0, batch_size=16, start=0, stop=1)
    batch = found.put(host)
    assert {s.data.shape for s in batch["image"].addressable_shards} == {(2, 4, 4, 3)}
    text = found._jitted.lower(found.images, found.labels, host["crops"]).compile().as_text()
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all"))


def test_plans_of_several_steps_are_one():
    host = list(crop_params(20, PAD, seed=0, batch_size=6, start=3, stop=6))
    one = stacked(host, 5)
    assert one["crops"].shape == (5, 6, 4) and not one["crops"][3:].any()
    np.testing.assert_array_equal(one["crops"][1], host[1]["crops"])
    assert one["unreadable"].shape == one["retried"].shape == (18,)


# --- whether it does -----------------------------------------------------------------------------


def decided(*, platform="gpu", steps=45, source=None, decide=lives_on_devices, **changes):
    """The decision for 45 steps of 32 on 1,438 digits: slightly more than an epoch."""
    config = tiny()
    data = {"resident": changes.pop("resident", "auto")}
    config = replace(config, data=replace(config.data, **data), **changes)
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
    splits = Splits(source, source) if source else open_splits(config.data)
    return decide(config, splits, mesh, steps)


def test_auto_takes_what_it_can():
    assert decided()
    assert not decided(platform="cpu")
    assert not decided(steps=44)  # the set has more examples than the run reads
    assert not decided(augment=AugmentConfig(crop="random_resized"))
    assert not decided(resident="off")
    assert decided(resident="on", platform="cpu", steps=1)


def test_auto_knows_the_size(monkeypatch):
    source = noise(100, size=8)  # 100 of 10x10x3, and 100 of 8x8x3 to evaluate
    monkeypatch.setattr(module, "LIMIT", 100 * (300 + 192))
    assert decided(source=source)
    monkeypatch.setattr(module, "LIMIT", 100 * (300 + 192) - 1)
    assert not decided(source=source)
    assert decided(source=source, resident="on")


def test_what_the_devices_cannot_do_is_refused_before_anything_else(tmp_path):
    config = tiny(augment=AugmentConfig(crop="random_resized"))
    config = replace(config, data=replace(config.data, resident="on"))
    with pytest.raises(ConfigError, match=r"data.resident 'on': augment.crop 'random_resized'"):
        fit(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_option_that_it_does_not_know_is_the_hosts():
    @dataclasses.dataclass(frozen=True)
    class Colourful(AugmentConfig):
        colour: float = 0.0

    plain = {"crop": "pad", "pad": 1, "flip": True}
    assert decided(augment=Colourful(**plain))
    assert not decided(augment=Colourful(**plain, colour=0.5))
    with pytest.raises(ConfigError, match=r"augment.colour 0.5 is done on the host"):
        decided(augment=Colourful(**plain, colour=0.5), resident="on")


def test_several_processes_read_for_themselves(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert not decided()
    with pytest.raises(ConfigError, match="there are 2 processes"):
        decided(resident="on")


# --- training ------------------------------------------------------------------------------------


def run_of(resident: str, log_every="5st", eval_every="7st", checkpoint_every="3st", **changes):
    """A run of 25 steps of 32 with all features that a dispatch of several steps could affect."""
    config = tiny(duration="25st", log_every=log_every, ema_decay=0.9, **changes)
    return replace(
        config,
        data=replace(config.data, resident=resident),
        eval=replace(config.eval, every=eval_every),
        checkpoint=replace(config.checkpoint, every=checkpoint_every),
    )


RARE = {"log_every": "25st", "eval_every": "25st", "checkpoint_every": ""}


@contextlib.contextmanager
def together(seconds: float):
    """Makes the CPU dispatch several steps at once, as a GPU does; yields the steps of each."""
    sent: list[int] = []
    original = MultiStep.run

    def run(self, state, work):
        sent.append(work.steps)
        return original(self, state, work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.run.dispatch, "loops_are_fast", lambda mesh: True)
        patch.setattr(train.run.dispatch, "SECONDS", seconds)
        patch.setattr(MultiStep, "run", run)
        yield sent


@pytest.fixture(scope="module")
def by_host(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("host")
    fit(run_of("off"), workdir, quiet=True)
    return content(workdir)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """The content of a run in three dispatches."""
    workdir = tmp_path_factory.mktemp("once")
    with together(seconds=1e9) as sent:
        fit(run_of("on", **RARE), workdir, quiet=True)
    assert sent == [1, 1, 23]
    return content(workdir)


def stop_after(step, config, workdir):
    """Sends a signal during the dispatch that ends with this step."""
    original = Trainer._advance
    stop = StopSignal()

    def advance(self, dispatches):
        original(self, dispatches)
        stop.signal = "SIGTERM" if self.step == step else None

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError, match=f"step {step} of"):
        patch.setattr(Trainer, "_advance", advance)
        fit(config, workdir, quiet=True, stop=stop)


def test_many_steps_in_a_dispatch_are_the_same_training(by_host, at_once, tmp_path):
    """In another program XLA may order sums differently: to 1e-6 of each mean after 25 steps.

    Two runs of it with other numbers of steps in a dispatch are bit-identical.
    """
    with together(seconds=1e9) as sent:
        fit(run_of("on"), tmp_path, quiet=True)
    # An action is due after 3, 5, 6, 7, 9, 10, 12, 14, 15, 18, 20, 21, 24 and 25.
    assert sent == [1, 1, 1, 2, 1, 1, 2, 1, 2, 2, 1, 3, 2, 1, 3, 1]
    rows, state = content(tmp_path)
    assert [(row["step"], row["split"]) for row in rows] == [
        *((5, "train"), (7, "eval"), (10, "train"), (14, "eval"), (15, "train")),
        *((20, "train"), (21, "eval"), (25, "train"), (25, "eval")),
    ]
    for row, expected in zip(rows, by_host[0], strict=True):
        numbers = {key: value for key, value in row.items() if key != "split"}
        assert numbers == pytest.approx({key: expected[key] for key in numbers}, rel=1e-6)
    assert state == at_once[1]


def test_a_run_stopped_inside_what_was_one_dispatch_resumes_exactly(at_once, tmp_path):
    with together(seconds=0) as sent:
        stop_after(9, run_of("on", **RARE), tmp_path)
    assert sent == [1] * 9
    with together(seconds=1e9) as sent:
        fit(run_of("on", **RARE), tmp_path, quiet=True)
    assert sent == [1, 1, 14]
    assert content(tmp_path) == at_once


def test_a_run_is_the_hosts_bit_for_bit(by_host, tmp_path):
    """A CPU dispatches each step with the program of the host path; a GPU resumes from there."""
    stop_after(11, run_of("off"), tmp_path)
    fit(run_of("on"), tmp_path, quiet=True)
    assert content(tmp_path) == by_host


def test_what_is_not_finite_is_named_inside_a_dispatch(tmp_path):
    """The reported step and examples are those of a run that dispatches every step."""
    optim = replace(tiny().optim, lr=1e30)
    model = replace(tiny().model, zero_gamma=False)
    config = run_of("on", **RARE, optim=optim, model=model, skip_nonfinite=1)
    found = []
    for seconds in (1e9, 0):
        workdir = tmp_path / str(seconds)
        with together(seconds), pytest.raises(RunError, match="after 1 skipped step;"):
            fit(config, workdir, quiet=True)
        found.append(json.loads((workdir / "anomaly.json").read_text()))
    assert found[0] == found[1]
    step, examples = found[0]["step"], [each["index"] for each in found[0]["examples"]]
    assert 2 < step < 25  # the first two dispatches have a step each
    assert examples == example_indices(1438, 0, 32, step - 1).tolist()


def test_a_window_takes_the_sums_of_several_steps():
    one, many = Window(), Window()
    loss = np.random.default_rng(0).normal(size=5).astype(np.float32)
    for i in range(3):
        one.add(i + 5, {"loss": loss[i], "count": np.float32(2)})
    many.add(5, {"loss": loss, "count": np.full(5, 2, np.float32)}, 3)
    assert many.fetch() == one.fetch() and many.fetch()["steps"] == 3
    loss[1] = np.nan
    many.add(8, {"loss": loss}, 1)  # entries after the first steps are padding
    many.fetch()
    many.add(8, {"loss": loss}, 3)
    with pytest.raises(NonFinite, match="loss is not finite at step 9"):
        many.fetch()


def test_a_dispatch_takes_a_quarter_of_a_second(monkeypatch):
    """A simulation of a device that is always busy, and a host that takes no time."""
    now = [0.0]
    monkeypatch.setattr(train.run.dispatch.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(jax, "block_until_ready", lambda end: now.insert(0, max(now[0], end)))
    pace, end, took = ChunkSizer(), 0.0, []
    for each in [0.02] * 4 + [0.001] * 4 + [0.7] * 4:  # seconds of a step
        took.append(pace.steps)
        end = max(end, now[0]) + each * pace.steps
        pace.sent(pace.steps, end)
    assert took == [1, 1, 12, 12, 12, 12, *[MAX_STEPS] * 4, 1, 1] and SECONDS == 0.25


def test_evaluations_after_the_first_read_nothing(tmp_path):
    splits = Run(run_of("on")).splits
    asked = []

    class Watched(ArraySource):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    run = Run(run_of("on"), splits=Splits(splits.train, Watched(**vars(splits.eval))))
    weights = {"raw": run.new_state().variables}
    kept = []
    first = evaluate(run, weights, cache=kept, per_example=True)
    assert asked == list(range(359)) and len(kept) == 3
    again = evaluate(run, weights, cache=kept, per_example=True)
    assert len(asked) == 359
    assert again.metrics == first.metrics and again.examples.names == first.examples.names
