"""Exact evaluation: every example of the split once, whatever the batch size and the devices."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.checkpoint.run_weights import Weights
from train.console import warn
from train.data.batch import HostBatch
from train.data.pipeline import eval_batches
from train.data.prefetch import Feed, Stopped, never
from train.data.readers import EvalReader
from train.data.sources import Source
from train.distributed.mesh import Batch, put_batch, round_up, shard
from train.learn.state import Variables
from train.report.base import Examples
from train.report.metrics_file import Row
from train.report.page import Subject, write_report
from train.run import out_of_memory
from train.run.metrics import Window, means
from train.run.parts import Run
from train.run.precise import precise_batches


@dataclass(frozen=True)
class Evaluation:
    """The result of one pass over the evaluation split."""

    count: int
    """Number of evaluated examples."""
    unreadable: list[str]
    """Names of the examples that could not be read and were skipped."""
    metrics: dict[str, Row]
    """By the name of the weights: the means of `loss` and of the task's metrics."""
    examples: Examples | None = None
    """The values of each example, for the report, if requested."""


def evaluate(
    run: Run,
    weights: dict[str, Variables],
    *,
    per_example: bool = False,
    report: Callable[[str], None] = warn,
    stopped: Callable[[float], bool] = never,
    cache: list[tuple[HostBatch, Batch]] | None = None,
    split: str = "eval",
) -> Evaluation:
    """Evaluates one or more sets of weights in one pass over a split of the run.

    Args:
      weights: by name.
      split: "eval" or "test".
      per_example: also collect the values of each example, with the first set of weights.
      report, stopped: see `Feed`; `stopped` is also called before each batch.
      cache: an empty list is filled with the batches, which stay on the devices; a filled one is
        used instead of reading the split again. None: no cache.

    Raises:
      BadExample: an unreadable example (`data.on_bad_image` "error").
      Stopped: `stopped` returned True.
    """
    source, config = _source(run, split), run.config
    batch_size = round_up(min(config.eval.batch_size, len(source)), run.mesh)
    windows = {name: Window() for name in weights}
    unreadable: list[np.ndarray] = []
    collected: dict[str, list[dict[str, np.ndarray]]] = {
        name: []
        for i, name in enumerate(weights)
        if run.task.uses_whole_split or (per_example and i == 0)
    }
    explain = out_of_memory.for_evaluation(run, batch_size)
    with (
        out_of_memory.explained(explain),
        _feed(run, source, batch_size, report, stopped, cache) as feed,
    ):
        for step, (batch, on_device) in enumerate(feed):
            if stopped(0.0):
                raise Stopped
            unreadable.append(batch["unreadable"])
            for name, variables in weights.items():
                sums, values = run.eval_step(variables, on_device)
                windows[name].add(step, sums)
                if name in collected:
                    collected[name].append({"index": batch["index"], **_local_rows(values)})
            del batch, on_device  # the feed has the next one by now
    totals = {name: window.fetch(finite=False) for name, window in windows.items()}
    count = int(next(iter(totals.values()))["count"])
    metrics = {name: means(total) for name, total in totals.items()}
    ordered = {name: _in_order(batches) for name, batches in collected.items()}
    for name, (_, rows) in ordered.items():
        metrics[name].update(run.task.whole_split(rows))
    names = [source.name(i) for i in sorted(_all_rows(np.concatenate(unreadable))) if i >= 0]
    examples = _examples(run, source, *ordered[next(iter(weights))]) if per_example else None
    return Evaluation(count, names, metrics, examples)


def _source(run: Run, split: str) -> Source:
    source = run.splits.test if split == "test" else run.splits.eval
    assert source is not None
    return source


def _in_order(
    collected: list[dict[str, np.ndarray]],
) -> tuple[list[int], dict[str, np.ndarray]]:
    """(indices, values) of all processes, in the order of the split, without padding."""
    values = {key: _all_rows(np.concatenate([b[key] for b in collected])) for key in collected[0]}
    order = values["index"].argsort(kind="stable")[(values["index"] < 0).sum() :]
    values = {key: rows[order] for key, rows in values.items()}
    return values.pop("index").tolist(), values


def _examples(
    run: Run, source: Source, indices: list[int], values: dict[str, np.ndarray]
) -> Examples:
    config = run.config

    def picture(i: int) -> np.ndarray:
        reader = EvalReader(source, config.data, config.eval)
        return reader.read(indices[i], reader.transform)[0]

    names = [source.name(i) for i in indices]
    return Examples(values, names, run.splits.train.class_names, picture)


@contextlib.contextmanager
def _feed(
    run: Run,
    source: Source,
    batch_size: int,
    report: Callable[[str], None],
    stopped: Callable[[float], bool],
    cache: list[tuple[HostBatch, Batch]] | None,
) -> Iterator[Iterator[tuple[HostBatch, Batch]]]:
    """The evaluation's batches, on the devices."""
    if cache:
        yield iter(cache)
        return
    data, where = run.config.data, shard(run.mesh)
    batches = eval_batches(source, data, run.config.eval, batch_size=batch_size, shard=where)
    put = partial(put_batch, mesh=run.mesh)
    options: Any = {"report": report, "stopped": stopped, "what": "evaluation batch"}
    with Feed(batches, put, data, **options) as feed:
        if cache is None:
            yield feed
            return
        found: list[tuple[HostBatch, Batch]] = []
        yield map(partial(_keep, found), feed)
        cache += found  # only a complete pass


def _keep(
    found: list[tuple[HostBatch, Batch]], pair: tuple[HostBatch, Batch]
) -> tuple[HostBatch, Batch]:
    host = {key: column for key, column in pair[0].items() if key != "image"}
    found.append((host, pair[1]))
    return pair


def _all_rows(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes; each process has the same number of them."""
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def _local_rows(values: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """This process's rows of per-example values."""

    def rows(x: jax.Array) -> np.ndarray:
        shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
        return np.concatenate([np.asarray(s.data) for s in shards])

    return {name: rows(x) for name, x in values.items()}


def as_row(evaluation: Evaluation) -> Row:
    """For metrics.jsonl: "loss" with the raw weights, "ema_loss" with the averaged ones."""
    row = _counts(evaluation)
    for name, metrics in evaluation.metrics.items():
        prefix = "" if name == "raw" else f"{name}_"
        row.update({prefix + key: value for key, value in metrics.items()})
    return row


def _counts(evaluation: Evaluation) -> Row:
    skipped = len(evaluation.unreadable)
    return {"examples": evaluation.count, **({"skipped": skipped} if skipped else {})}


def evaluate_checkpoint(
    run: Run,
    weights: Weights,
    workdir: Path | None = None,
    is_writer: bool = True,
    cache: list[tuple[HostBatch, Batch]] | None = None,
    split: str = "eval",
) -> Row:
    """Evaluates the weights of a checkpoint.

    Args:
      workdir: write its `report/index.html` too; None: no report.
      is_writer: whether this process writes the report.
      cache, split: see `evaluate`.

    Returns:
      `step`, `weights` (their name), `split` if it is "test", `examples` (the number of them),
      `skipped` if any were, `loss`, and the task's metrics; and `precise_bn`, if it is not 0.
    """
    named = {weights.name: weights.variables}
    evaluation = evaluate(run, named, per_example=workdir is not None, cache=cache, split=split)
    metrics = evaluation.metrics[weights.name]
    if workdir is not None and evaluation.examples is not None and is_writer:
        subject = Subject(weights.step, weights.name, precise_bn=precise_batches(run))
        if split == "test":
            subject = replace(subject, tested=metrics, chooser=run.splits.eval.name(0))
        write_report(workdir, run.task, evaluation.examples, subject=subject)
    about: Row = {"step": weights.step, "weights": weights.name}
    if split == "test":
        about["split"] = split
    if batches := precise_batches(run):
        about["precise_bn"] = batches
    return {**about, **_counts(evaluation), **metrics}
