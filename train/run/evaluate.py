"""Exact evaluation: every example of the split once, whatever the batch size and the devices."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.checkpoint.manager import Weights
from train.console import warn
from train.data.pipeline import EvalReader, HostBatch, eval_batches
from train.data.prefetch import Feed, Stopped, never
from train.distributed.mesh import Batch, put_batch, round_up, shard
from train.learn.state import Variables
from train.report.classification import Predictions
from train.report.metrics_file import Row
from train.report.page import Subject, write_report
from train.run import out_of_memory
from train.run.metrics import Window, means
from train.run.parts import Run


@dataclass(frozen=True)
class Evaluation:
    """What was seen, and how each set of weights did."""

    examples: int
    bad: list[str]
    """Names of the examples that could not be read and were left out."""
    metrics: dict[str, Row]
    """By the name of the weights: means of `loss`, `top1`, `top5`."""
    predictions: Predictions | None = None
    indices: Sequence[int] = ()
    """Place in the source of each example in `predictions`."""

    def picture(self, run: Run, i: int) -> np.ndarray:
        """Example `i` of the predictions as the network saw it: uint8 [H, W, C]."""
        source = run.splits.eval
        reader = EvalReader(source, run.config.data, run.config.eval)
        return reader.read(self.indices[i], reader.transform)[0]


def evaluate(
    run: Run,
    weights: dict[str, Variables],
    *,
    predictions: bool = False,
    report: Callable[[str], None] = warn,
    stopped: Callable[[float], bool] = never,
    kept: list[tuple[HostBatch, Batch]] | None = None,
) -> Evaluation:
    """Evaluates one or more sets of weights in one pass over the run's evaluation split.

    Args:
      weights: by name.
      predictions: also collect what the first set says of each example.
      report, stopped: see `Feed`; `stopped` is asked before each batch too.
      kept: takes the batches when it is empty, and gives them, from the devices, when it is not.

    Raises:
      BadExample: an unreadable example (`data.on_bad_image` "error").
      Stopped: `stopped` said so.
    """
    source, config = run.splits.eval, run.config
    batch_size = round_up(min(config.eval.batch_size, len(source)), run.mesh)
    windows = {name: Window() for name in weights}
    bad: list[np.ndarray] = []
    seen: list[dict[str, np.ndarray]] = []
    explain = out_of_memory.for_evaluation(run, batch_size)
    with (
        out_of_memory.explained(explain),
        _feed(run, batch_size, report, stopped, kept) as feed,
    ):
        for step, (batch, on_device) in enumerate(feed):
            if stopped(0.0):
                raise Stopped
            bad.append(batch["bad"])
            for i, (name, variables) in enumerate(weights.items()):
                sums, examples = run.eval_step(variables, on_device)
                windows[name].add(step, sums)
                if predictions and i == 0:
                    seen.append(_here({**examples, "label": on_device["label"]}, batch["index"]))
            del batch, on_device  # the feed has the next one by now
    totals = {name: window.fetch(finite=False) for name, window in windows.items()}
    count = int(next(iter(totals.values()))["count"])
    metrics = {name: means(total) for name, total in totals.items()}
    names = [source.name(i) for i in sorted(_everyones(np.concatenate(bad))) if i >= 0]
    if not predictions:
        return Evaluation(count, names, metrics)
    columns = {key: _everyones(np.concatenate([b[key] for b in seen])) for key in seen[0]}
    order = columns["index"].argsort(kind="stable")[(columns["index"] < 0).sum() :]
    columns = {key: column[order] for key, column in columns.items()}
    indices = columns.pop("index").tolist()
    named: Any = {"name": [source.name(i) for i in indices], **columns}
    return Evaluation(count, names, metrics, Predictions(**named), indices)


@contextlib.contextmanager
def _feed(
    run: Run,
    batch_size: int,
    report: Callable[[str], None],
    stopped: Callable[[float], bool],
    kept: list[tuple[HostBatch, Batch]] | None,
) -> Iterator[Iterator[tuple[HostBatch, Batch]]]:
    """The evaluation's batches, on the devices."""
    if kept:
        yield iter(kept)
        return
    data, where = run.config.data, shard(run.mesh)
    batches = eval_batches(
        run.splits.eval, data, run.config.eval, batch_size=batch_size, shard=where
    )
    put = partial(put_batch, mesh=run.mesh)
    options: Any = {"report": report, "stopped": stopped, "what": "evaluation batch"}
    with Feed(batches, put, data, **options) as feed:
        if kept is None:
            yield feed
            return
        found: list[tuple[HostBatch, Batch]] = []
        yield map(partial(_keep, found), feed)
        kept += found  # not what came before an error


def _keep(
    found: list[tuple[HostBatch, Batch]], pair: tuple[HostBatch, Batch]
) -> tuple[HostBatch, Batch]:
    host = {key: column for key, column in pair[0].items() if key != "image"}
    found.append((host, pair[1]))
    return pair


def _everyones(rows: np.ndarray) -> np.ndarray:
    """The rows that all processes read, of which each has as many."""
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def _here(values: dict[str, jax.Array], index: np.ndarray) -> dict[str, np.ndarray]:
    """This process's rows of per-example values."""

    def rows(x: jax.Array) -> np.ndarray:
        shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
        return np.concatenate([np.asarray(s.data) for s in shards])

    return {"index": index, **{name: rows(x) for name, x in values.items()}}


def as_row(evaluation: Evaluation) -> Row:
    """For metrics.jsonl: "top1" of the raw weights, "ema_top1" of the averaged ones."""
    row: Row = {"examples": evaluation.examples}
    if evaluation.bad:
        row["skipped"] = len(evaluation.bad)
    for name, metrics in evaluation.metrics.items():
        prefix = "" if name == "raw" else f"{name}_"
        row.update({prefix + key: value for key, value in metrics.items()})
    return row


def evaluate_checkpoint(
    run: Run,
    weights: Weights,
    workdir: Path | None = None,
    is_writer: bool = True,
    kept: list[tuple[HostBatch, Batch]] | None = None,
) -> Row:
    """Evaluates a checkpoint's weights; with a `workdir`, also writes its `report/index.html`.

    `kept`: see `evaluate`.

    Returns:
      `step`, `weights` (their name), `examples`, `loss`, `top1`, `top5`, and `skipped` if any were.
    """
    named = {weights.name: weights.variables}
    evaluation = evaluate(run, named, predictions=workdir is not None, kept=kept)
    row: Row = {"step": weights.step, "weights": weights.name, "examples": evaluation.examples}
    if evaluation.bad:
        row["skipped"] = len(evaluation.bad)
    if workdir is not None and evaluation.predictions is not None and is_writer:
        names = run.splits.train.class_names
        picture = partial(evaluation.picture, run)
        subject = Subject(weights.step, weights.name)
        write_report(workdir, evaluation.predictions, names, picture, subject=subject)
    return {**row, **evaluation.metrics[weights.name]}
