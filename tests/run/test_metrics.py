"""train/run/metrics.py: exact sums, and a log that neither repeats nor loses a row."""

import json
import math
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from train.config import RunError
from train.report.metrics_file import parse_metrics, read_metrics
from train.run.metrics import AHEAD, MetricsLog, NonFinite, Window, means


def sums(step: int) -> dict[str, jnp.ndarray]:
    """The sums of a step as on the device: float32, of very different magnitudes."""
    draw = np.random.default_rng(step)
    return {
        "loss": jnp.float32(draw.uniform(0, 1000)),
        "top1": jnp.float32(draw.integers(0, 128)),
        "count": jnp.float32(128),
        "grad_norm": jnp.float32(draw.uniform(0, 1e-3)),
    }


def filled(steps, totals=None) -> Window:
    window = Window(totals)
    for step in steps:
        window.add(step, sums(step))
    return window


# --- Window --------------------------------------------------------------------------------------


def test_totals_are_float64_sums():
    totals = filled(range(300)).fetch()
    expected = {name: sum(float(sums(i)[name]) for i in range(300)) for name in sums(0)}
    assert totals == {**expected, "steps": 300}
    # a float32 sum would be inexact
    rounded = np.float32(0)
    for i in range(300):
        rounded += np.float32(sums(i)["loss"])
    assert float(rounded) != totals["loss"]


def test_the_number_of_queued_steps_is_limited():
    """With too many, XLA's CPU devices deadlock: they wait for one another."""

    @jax.jit
    def slow(x):  # about 0.1 s
        return jax.lax.fori_loop(0, 30, lambda _, x: jnp.tanh(x @ x), x).sum()

    window, x = Window(), jnp.eye(512)
    queued = []
    for step in range(AHEAD + 3):
        total = slow(x * step)
        queued.append(total)
        window.add(step, {"loss": total})
        assert all(total.is_ready() for total in queued[:-AHEAD])
    assert not queued[-1].is_ready()  # nothing waits for the newest


@pytest.mark.parametrize("pieces", [[300], [1] * 300, [7, 100, 193]], ids=["1", "300", "3"])
def test_totals_do_not_depend_on_when_they_are_fetched(pieces):
    window, step = Window(), 0
    for piece in pieces:
        for _ in range(piece):
            window.add(step, sums(step))
            step += 1
        window.fetch()
        window.fetch()  # a second fetch counts nothing twice
    assert window.fetch() == filled(range(300)).fetch()


def test_totals_go_on_from_a_checkpoint():
    saved = json.loads(json.dumps(filled(range(100)).fetch()))
    resumed = filled(range(100, 300), saved)
    assert resumed.fetch() == filled(range(300)).fetch()
    assert saved == filled(range(100)).fetch()  # the loaded totals are not modified


def test_fetched_totals_do_not_change_afterwards():
    """Orbax writes them in the background while steps are added."""
    window = filled(range(3))
    saved = window.fetch()
    before = dict(saved)
    window.add(3, sums(3))
    window.fetch()
    assert saved == before


def test_close_returns_means_and_empties_the_window():
    window = filled(range(10))
    row = window.close()
    assert row == {
        "loss": sum(float(sums(i)["loss"]) for i in range(10)) / 1280,
        "top1": sum(float(sums(i)["top1"]) for i in range(10)) / 1280,
        "grad_norm": sum(float(sums(i)["grad_norm"]) for i in range(10)) / 10,
    }
    assert window.fetch() == {} and window.close() == {}
    window.add(10, sums(10))
    assert window.close()["top1"] == float(sums(10)["top1"]) / 128


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_the_first_value_that_is_not_finite_is_named(name, value):
    window = filled(range(5, 8))
    window.add(8, {**sums(8), name: jnp.float32(value)})
    window.add(9, {**sums(9), "top1": jnp.float32(math.nan)})
    with pytest.raises(NonFinite) as error:
        window.fetch()
    assert error.value.found == (8, name, str(value))
    assert str(error.value) == f"{name} is not finite at step 8"
    assert issubclass(NonFinite, RunError)


def test_the_loss_is_named_before_the_gradient():
    window = Window(limit=1)
    nan, inf = jnp.float32(math.nan), jnp.float32(-math.inf)
    window.add(3, {**dict.fromkeys(("count", "grad_norm"), nan), "loss": inf})
    window.fetch()
    assert window.skipped_steps == [(3, "loss", "-inf")]
    old = Window(skipped_steps=[[2, "loss"]])
    assert old.skipped_steps == [(2, "loss", "not finite")]  # of an old checkpoint


def test_an_evaluation_accepts_a_loss_that_is_not_finite():
    window = filled(range(2))
    window.add(2, {**sums(2), "loss": jnp.float32(math.nan)})
    totals = window.fetch(finite=False)
    assert math.isnan(totals["loss"]) and totals["count"] == 384 and totals["steps"] == 3


def test_means():
    totals = {"loss": 12.0, "top1": 6.0, "count": 8.0, "grad_norm": 9.0, "steps": 3}
    assert means(totals) == {"loss": 1.5, "top1": 0.75, "grad_norm": 3.0}
    assert means({"loss": 0.0, "top1": 0.0, "count": 0.0, "steps": 2}) == {"loss": 0, "top1": 0}
    assert means({"loss": 0.25, "count": 0.5, "steps": 1}) == {"loss": 0.25}


# --- read_metrics --------------------------------------------------------------------------------


def row(step: int, split: str = "train") -> dict:
    return {"step": step, "split": split, "loss": 1 / (step + 1), "top1": step / 7}


def write(path: Path, rows: list[dict], torn: str = "") -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)


def test_missing_file_has_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("cut", range(1, len(json.dumps(row(3)))))
def test_a_torn_last_line_is_skipped(tmp_path, cut):
    write(tmp_path / "metrics.jsonl", [row(1), row(2)], json.dumps(row(3))[:cut])
    assert read_metrics(tmp_path / "metrics.jsonl") == [row(1), row(2)]


def test_a_whole_last_line_needs_no_newline(tmp_path):
    write(tmp_path / "metrics.jsonl", [row(1)], json.dumps(row(2)))
    assert read_metrics(tmp_path / "metrics.jsonl") == [row(1), row(2)]


def test_lines_that_are_no_rows_are_skipped_and_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    torn = ['{"step": 2, "spl', "12", "null", '{"step": "x", "split": "train"}', '{"split": "a"}']
    path.write_text("\n".join([json.dumps(row(1)), *torn, "", json.dumps(row(3))]) + "\n")
    assert parse_metrics(path) == ([row(1), row(3)], 5)
    path.write_bytes(json.dumps(row(1)).encode() + b"\n\xff\xfe\x00\n")
    assert parse_metrics(path) == ([row(1)], 1)


def test_rows_are_in_order_and_the_last_of_two_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    again = {**row(2), "loss": 9.0}
    write(path, [row(2), row(3), row(2, "eval"), row(1), again])
    assert read_metrics(path) == [row(1), again, row(2, "eval"), row(3)]


# --- MetricsLog ----------------------------------------------------------------------------------


def lines(workdir: Path) -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def events(workdir: Path) -> list[Event]:
    """The events as TensorBoard reads them: records of (length, checksum, bytes, checksum)."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += length + 16
    return found


def scalars(workdir: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(workdir)
        for value in event.summary.value
    ]


def test_new_log(tmp_path):
    log = MetricsLog(tmp_path, 0)
    assert lines(tmp_path) == []
    log.write(row(1))
    assert lines(tmp_path) == [row(1)]  # on disk before anything else is saved
    log.write(row(1, "eval"))
    log.write(row(2))
    assert lines(tmp_path) == [row(1), row(1, "eval"), row(2)]
    log.close()
    assert lines(tmp_path) == read_metrics(tmp_path / "metrics.jsonl")
    assert [path.name for path in tmp_path.glob("*.*")] == ["metrics.jsonl"]


def test_resumed_log_drops_rows_after_the_checkpoint(tmp_path):
    rows = [row(5), row(10), row(10, "eval"), row(15), row(20), row(20, "eval")]
    write(tmp_path / "metrics.jsonl", rows, torn='{"step": 2')
    log = MetricsLog(tmp_path, 10)
    assert lines(tmp_path) == rows[:3]
    log.write(row(15))
    log.close()
    assert lines(tmp_path) == [*rows[:3], row(15)]


@pytest.mark.parametrize("last_step, kept", [(0, 0), (4, 0), (5, 1), (6, 1), (10, 2), (99, 2)])
def test_the_checkpoints_own_row_is_kept(tmp_path, last_step, kept):
    write(tmp_path / "metrics.jsonl", [row(5), row(10)])
    MetricsLog(tmp_path, last_step).close()
    assert lines(tmp_path) == [row(5), row(10)][:kept]


def test_a_torn_line_is_not_joined_to_the_next(tmp_path):
    write(tmp_path / "metrics.jsonl", [row(5)], torn=json.dumps(row(10))[:-1])
    log = MetricsLog(tmp_path, 10)
    log.write(row(15))
    log.close()
    assert lines(tmp_path) == [row(5), row(15)]


def test_numbers_survive_the_log(tmp_path):
    log = MetricsLog(tmp_path, 0)
    exact = {"step": 1, "split": "train", "loss": 0.1 + 0.2, "lr": 1e-17, "examples": 10_000}
    log.write(exact)
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [exact]


def test_tensorboard_receives_the_same_values(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write({"step": 3, "split": "train", "loss": 0.5, "lr": 0.25, "skipped": 2})
    log.write({"step": 3, "split": "eval", "top1": 0.75})
    log.close()
    assert scalars(tmp_path) == [
        ("train/loss", 3, 0.5),
        ("train/lr", 3, 0.25),
        ("train/skipped", 3, 2.0),
        ("eval/top1", 3, 0.75),
    ]


def test_tensorboard_drops_steps_after_the_checkpoint(tmp_path):
    write(tmp_path / "metrics.jsonl", [row(5), row(10)])
    MetricsLog(tmp_path, 5).close()
    starts = [e.step for e in events(tmp_path) if e.session_log.status == SessionLog.START]
    assert starts == [6]  # TensorBoard drops steps from this one on


def test_a_row_that_cannot_be_written_is_an_error_that_names_the_file(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log._file.close()
    log._file = Path("/dev/full").open("a")  # noqa: SIM115 (`log.close` closes it)
    with pytest.raises(RunError) as error:
        log.write(row(1))
    log.close()  # the error was already raised
    assert str(tmp_path / "metrics.jsonl") in str(error.value)
    assert "No space left on device" in str(error.value)
