"""A run directory as one page: `report/index.html`, readable offline and self-contained.

The frame is `report.html`; each function here fills one place in it, from data to an HTML string.
The task's part comes from `train.report.sections`.
"""

import dataclasses
import datetime
import json
import math
import os
import statistics
import string
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from train.learn.tasks import Metric, Task
from train.printable import utf8
from train.report.base import Examples, Part
from train.report.curves import column, curves, finite
from train.report.markup import metric_text, number, share, text
from train.report.metrics_file import Row, parse_metrics
from train.report.sections import section


@dataclasses.dataclass(frozen=True)
class Subject:
    """The checkpoint whose evaluation the report shows."""

    step: int | None = None
    """None: unknown."""
    weights: str = "raw"
    """"raw", or "ema" for the averaged weights."""
    tested: Row | None = None
    """The metrics on `data.test_split`, of which the examples are; None: the examples are those of
    `data.eval_split`, which chose the checkpoint."""
    chooser: str = ""
    """With `tested`: the name of an example of `data.eval_split`."""
    precise_bn: int = 0
    """Training batches of its BatchNorm statistics; 0: running averages."""


def write_report(
    workdir: Path,
    task: Task,
    examples: Examples,
    *,
    subject: Subject = Subject(),
    written: datetime.datetime | None = None,
) -> Path:
    """Writes `workdir/report/index.html` from the run's metrics, config and evaluated examples.

    Args:
        workdir: a run directory; `metrics.jsonl` and `config.json` may be missing or unfinished.
        task: its headline metric and its section (`train.report.sections`) are shown.
        examples: of one whole split, evaluated with the weights of `subject`.
        subject: the best checkpoint of the run.
        written: the date on the page; None: now.

    Returns:
        The path of the page. It replaces an older one only when it is complete.

    Raises:
        ValueError: the values of the examples differ in length, or the section refuses them.
    """
    _check(examples)
    written = written or datetime.datetime.now().astimezone()
    page = _page(workdir, task, examples, subject, written)
    target = workdir / "report" / "index.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".html.tmp")
    partial.write_text(utf8(page), encoding="utf-8")
    os.replace(partial, target)
    return target


def _page(
    workdir: Path, task: Task, examples: Examples, subject: Subject, written: datetime.datetime
) -> str:
    config_file = workdir / "config.json"
    config = json.loads(config_file.read_text("utf-8")) if config_file.exists() else {}
    rows, unreadable = parse_metrics(workdir / "metrics.jsonl")
    train, evals = ([r for r in rows if r["split"] == split] for split in ("train", "eval"))
    chooser = _split(config, [subject.chooser] if subject.tested is not None else examples.names)
    split = chooser if subject.tested is None else f"{_get(config, 'data.test_split')} split"
    chosen = _of_checkpoint(evals, subject)
    part = section(task)(examples, chosen if subject.tested is None else subject.tested)
    of = f"best checkpoint, {_checkpoint(subject)}; {split}"
    cards = [
        *((label, value, of) for label, value in part.cards),
        ("Loss", number(_mean_loss(examples), ".4g"), of),
        *_chosen(task.headline, chosen, subject, chooser),
        (f"{task.headline.heading} at the end", *_last(task.headline, evals, chooser)),
        *_costs(config, train, evals),
    ]
    frame = resources.files(__package__).joinpath("report.html").read_text("utf-8")
    return string.Template(frame).substitute(
        title=text(f"{_title(config) or workdir.resolve().name}, {written:%Y-%m-%d}"),
        subject=text(_about(examples, subject, split, chooser, len(evals))),
        cards=_cards(cards),
        run=_run(config, written),
        curves=curves(train, evals, task),
        about_loss=text(_about_loss(config)) if train else "",
        unreadable=f"<p>Unreadable lines skipped: {unreadable}.</p>" if unreadable else "",
        task=_sections(part),
        config=text(
            json.dumps(config, indent=2, ensure_ascii=False) if config else "No config.json."
        ),
    )


def _sections(part: Part) -> str:
    return "\n".join(
        f"<section>\n<h2>{text(heading)}</h2>\n{content}\n</section>"
        for heading, content in part.sections
    )


def _check(examples: Examples) -> None:
    lengths = {name: len(values) for name, values in examples.values.items()}
    lengths["name"] = len(examples.names)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the values of the examples differ in length: {lengths}")


def _mean_loss(examples: Examples) -> float:
    losses = examples.values["loss"]
    return float(np.mean(losses, dtype=np.float64)) if len(losses) else math.nan


def _title(config: Row) -> str:
    """ "digits: resnet20_cifar on digits": recipe, network and data; "" if none is known."""
    recipe, model = (_get(config, field) for field in ("recipe", "model.name"))
    sentence = " on ".join(str(part) for part in (model, _data(config)) if part)
    return ": ".join(str(part) for part in (recipe, sentence) if part)


def _data(config: Row) -> str:
    """The data set, with the last part of its folder's or file's name."""
    name, where = _get(config, "data.name"), _get(config, "data.dir")
    return f"{name} {Path(str(where)).name}" if name and where else str(name or "")


def _split(config: Row, names: Sequence[str]) -> str:
    """What the evaluated examples are called: a split of the data, or a share that is held out.

    Args:
      names: of some of them.
    """
    split = _get(config, "data.eval_split") or "evaluation"
    in_folder = any(name.startswith(f"{split}/") for name in names)
    name, where = _get(config, "data.name"), Path(str(_get(config, "data.dir")))
    held_out = name == "folder" and not in_folder  # a share of DIR/CLASS
    held_out |= name == "csv" and not (where / f"{split}.csv").is_file()
    return "held-out share" if held_out else f"{split} split"


def _about(examples: Examples, subject: Subject, split: str, chooser: str, count: int) -> str:
    """`chooser`: the split whose `count` evaluations chose the checkpoint."""
    about = (
        f"The results on this page are those of the best checkpoint ({_checkpoint(subject)}) on "
        f"the {split} ({len(examples.names):,} images), unless a card says otherwise."
    )
    if subject.tested is not None:
        return f"{about} The {chooser} chose the checkpoint, and this split was used once."
    if count < 2:
        return about
    return (
        f"{about} Warning: the same split chose the checkpoint, as the best of {count:,} "
        "evaluations, so these results are better than on new images; data.test_split reports "
        "them on another split."
    )


def _chosen(
    metric: Metric, chosen: Row, subject: Subject, chooser: str
) -> list[tuple[str, str, str]]:
    """The card of the evaluation that chose the checkpoint, if the page shows another split."""
    if subject.tested is None:
        return []
    note = f"best checkpoint, {_checkpoint(subject)}; {chooser}, which chose it"
    return [(f"{metric.heading} at the choice", metric_text(metric, chosen.get(metric.name)), note)]


def _checkpoint(subject: Subject) -> str:
    step = "step unknown" if subject.step is None else f"step {subject.step:,}"
    step += ", averaged weights" if subject.weights == "ema" else ""
    batches = subject.precise_bn
    return step + (f", BatchNorm statistics of {batches} training batches" if batches else "")


def _run(config: Row, written: datetime.datetime) -> str:
    """What is needed to repeat the run, as a list of names and values."""
    examples = _get(config, "examples") or {}
    sizes = ", ".join(f"{count:,} {split}" for split, count in examples.items())
    versions = _get(config, "versions") or {}
    data = " in ".join(str(v) for f in ("data.name", "data.dir") if (v := _get(config, f)))
    values = {
        "Command": _get(config, "command"),
        "Data": f"{data} ({sizes})" if sizes else data,
        "Hardware": _get(config, "devices"),
        "Precision": _get(config, "precision"),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Commit": _get(config, "commit"),
        "Report written": f"{written:%Y-%m-%d %H:%M %Z}".strip(),
    }
    items = (f"<dt>{name}</dt><dd>{text(value)}</dd>" for name, value in values.items() if value)
    return f'<dl class="run">\n{"".join(items)}\n</dl>'


def _about_loss(config: Row) -> str:
    smoothing = _get(config, "mix.label_smoothing") or 0
    smoothed = (
        f" and against smoothed targets (mix.label_smoothing {smoothing:g}), whose loss cannot "
        "reach 0"
        if smoothing
        else ""
    )
    if _get(config, "mix.mixup") or _get(config, "mix.cutmix"):
        smoothed += (
            " and on mixed examples, whose accuracy counts the class with the larger share as right"
        )
    return (
        "A training point is the mean over the steps since the point before, on augmented images"
        f"{smoothed}; evaluation uses neither, so the two losses need not agree."
    )


def _get(config: Any, path: str) -> Any:
    """`config["model"]["name"]` for "model.name"; None if a part of the path is missing."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _cards(cards: list[tuple[str, str, str]]) -> str:
    """One card for each (label, value, note)."""
    return "\n".join(
        f"<div><dt>{text(label)}</dt><dd>{text(value)}</dd><dd>{text(note)}</dd></div>"
        for label, value, note in cards
    )


def _costs(config: Row, train: list[Row], evals: list[Row]) -> list[tuple[str, str, str]]:
    """The cards of size and time."""
    parameters = _get(config, "parameters") or _get(config, "model.parameters") or ""
    size = f"{parameters:,}" if isinstance(parameters, int) else parameters
    steps, epochs = (max(finite(train + evals, f), default=math.nan) for f in ("step", "epoch"))
    seconds = finite(train, "seconds")
    time = str(datetime.timedelta(seconds=round(sum(seconds)))) if seconds else "-"
    # Medians, because the first interval of a run contains its compilation.
    speed, wait = (
        statistics.median(finite(train, f) or [math.nan]) for f in ("images_per_sec", "input_wait")
    )
    return [
        ("Steps", number(steps), f"{epochs:.4g} epochs" if epochs == epochs else ""),
        ("Training time", time, "h:mm:ss"),
        ("Images per second", number(speed), "median"),
        ("Waiting for input", share(wait), "of the time, median"),
        ("Model", _get(config, "model.name") or "-", f"{size} parameters" if size else ""),
    ]


def _of_checkpoint(evals: list[Row], subject: Subject) -> Row:
    """The finite values of the evaluation of the checkpoint's step and weights; {} if none."""
    if subject.precise_bn:  # those were with the running averages
        return {}
    prefix = "ema_" if subject.weights == "ema" else ""
    found = [row for row in evals if row["step"] == subject.step]
    values = {
        name.removeprefix(prefix): column([row], name).item()
        for row in found[-1:]
        for name in row
        if name.startswith(prefix)
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _last(metric: Metric, evals: list[Row], split: str) -> tuple[str, str]:
    """The headline metric of the last evaluation, and a note that names the evaluation."""
    if not evals:
        return "-", "not evaluated"
    raw, ema = (column(evals[-1:], f"{prefix}{metric.name}").item() for prefix in ("", "ema_"))
    averaged = f"; averaged weights {metric_text(metric, ema)}" if math.isfinite(ema) else ""
    note = f"last evaluation, step {evals[-1]['step']:,}{averaged}; {split}"
    return metric_text(metric, raw), note
