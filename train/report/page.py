"""A run directory as one page: `report/index.html`, readable offline and self-contained.

The frame is `report.html`; each function here fills one place of it, from data to an HTML string.
"""

import base64
import dataclasses
import datetime
import io
import json
import math
import os
import statistics
import string
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from train.learn.tasks import NO_CLASS
from train.printable import utf8
from train.report.classification import (
    Predictions,
    class_name,
    class_scores,
    classes,
    confusions,
    macro,
    number,
    share,
    text,
)
from train.report.curves import column, curves, finite
from train.report.metrics_file import Row, parse_metrics

MISTAKES = 24


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the predictions are of: the weights of a checkpoint."""

    step: int | None = None
    """Of the checkpoint; None: unknown."""
    weights: str = "raw"
    """"raw", or "ema" for the averaged ones."""


def write_report(
    workdir: Path,
    predictions: Predictions,
    class_names: Sequence[str],
    picture: Callable[[int], np.ndarray],
    *,
    subject: Subject = Subject(),
    written: datetime.datetime | None = None,
) -> Path:
    """Writes `workdir/report/index.html` from the run's metrics, config and predictions.

    Args:
        workdir: a run directory; `metrics.jsonl` and `config.json` may be missing or unfinished.
        predictions: of one whole split, by the model the report is about.
        class_names: [K], indexed by label.
        picture: example index -> uint8 [H, W, 1 or 3] as the network sees it; only called for the
            mistakes that are shown.
        subject: the checkpoint that the predictions are of, the best one of the run.
        written: the date on the page; None: now.

    Returns:
        The path of the page, which appears whole or not at all.

    Raises:
        ValueError: the predictions differ in length, or have a class without a name.
    """
    _check(predictions, len(class_names))
    config_file = workdir / "config.json"
    config = json.loads(config_file.read_text("utf-8")) if config_file.exists() else {}
    rows, unreadable = parse_metrics(workdir / "metrics.jsonl")
    train, evals = ([r for r in rows if r["split"] == split] for split in ("train", "eval"))
    written = written or datetime.datetime.now().astimezone()
    split = _split(config, predictions)
    frame = resources.files(__package__).joinpath("report.html").read_text("utf-8")
    page = string.Template(frame).substitute(
        title=text(f"{_title(config) or workdir.resolve().name}, {written:%Y-%m-%d}"),
        subject=text(_about(predictions, subject, split)),
        cards=_cards(config, train, evals, predictions, len(class_names), subject, split),
        run=_run(config, written),
        curves=curves(train, evals),
        about_loss=text(_about_loss(config)) if train else "",
        unreadable=f"<p>Unreadable lines skipped: {unreadable}.</p>" if unreadable else "",
        confusions=confusions(predictions, class_names),
        classes=classes(predictions, class_names),
        mistakes=_mistakes(predictions, class_names, picture),
        config=text(json.dumps(config, indent=2, ensure_ascii=False))
        if config
        else "No config.json.",
    )
    target = workdir / "report" / "index.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".html.tmp")
    partial.write_text(utf8(page), encoding="utf-8")
    os.replace(partial, target)
    return target


def _title(config: Row) -> str:
    """ "digits: resnet20_cifar on digits": recipe, network and data; "" if none is known."""
    recipe, model = (_get(config, field) for field in ("recipe", "model.name"))
    sentence = " on ".join(str(part) for part in (model, _data(config)) if part)
    return ": ".join(str(part) for part in (recipe, sentence) if part)


def _data(config: Row) -> str:
    """The data set, with the last part of its folder's or file's name."""
    name, where = _get(config, "data.name"), _get(config, "data.dir")
    return f"{name} {Path(str(where)).name}" if name and where else str(name or "")


def _split(config: Row, p: Predictions) -> str:
    """What the predictions' examples are called: a split of the data, or a share held out."""
    split = _get(config, "data.eval_split") or "evaluation"
    in_folder = any(name.startswith(f"{split}/") for name in p.name)
    held_out = _get(config, "data.name") == "folder" and not in_folder  # a share of DIR/CLASS
    return "held-out share" if held_out else f"{split} split"


def _about(p: Predictions, subject: Subject, split: str) -> str:
    return (
        "The figures, the confusion matrix and the mistakes on this page are of the best "
        f"checkpoint ({_checkpoint(subject)}) on the {split} ({len(p.label):,} images), unless a "
        "card says otherwise."
    )


def _checkpoint(subject: Subject) -> str:
    step = "step unknown" if subject.step is None else f"step {subject.step:,}"
    return step + (", averaged weights" if subject.weights == "ema" else "")


def _run(config: Row, written: datetime.datetime) -> str:
    """What it takes to do the run again, as a list of names and values."""
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


def _check(p: Predictions, count: int) -> None:
    lengths = [len(getattr(p, field.name)) for field in dataclasses.fields(p)]
    if len(set(lengths)) > 1:
        raise ValueError(f"predictions differ in length: {lengths}")
    for what, ids, least in (("label", p.label, 0), ("prediction", p.prediction, NO_CLASS)):
        if len(ids) and not least <= ids.min() <= ids.max() < count:
            raise ValueError(f"{what} in {ids.min()}..{ids.max()}, but there are {count} classes")


def _get(config: Any, path: str) -> Any:
    """`config["model"]["name"]` for "model.name"; None if any part of the way is missing."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _cards(
    config: Row,
    train: list[Row],
    evals: list[Row],
    p: Predictions,
    class_count: int,
    subject: Subject,
    split: str,
) -> str:
    """A card (label, value, note) for each number one asks for first."""
    n, right = len(p.label), int((p.label == p.prediction).sum())
    loss = float(np.mean(p.loss, dtype=np.float64)) if n else math.nan
    of = f"best checkpoint, {_checkpoint(subject)}; {split}"
    cards = [("Top-1 accuracy", share(right, n), of)]
    top5 = _of_checkpoint(evals, "top5", subject)
    if class_count > 5 and math.isfinite(top5):  # else it is 100 % of anything
        cards.append(("Top-5 accuracy", share(top5), of))
    f1 = macro(class_scores(p, class_count))["f1"]
    cards += [
        ("F1, mean of the classes", share(f1), of),
        ("Loss", number(loss, ".4g"), of),
        ("Top-1 accuracy at the end", *_last(evals, split)),
        *_costs(config, train, evals),
    ]
    return "\n".join(
        f"<div><dt>{label}</dt><dd>{text(value)}</dd><dd>{text(note)}</dd></div>"
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


def _of_checkpoint(evals: list[Row], field: str, subject: Subject) -> float:
    """A figure of the evaluation after the checkpoint's step, of the same weights; NaN: none."""
    prefix = "ema_" if subject.weights == "ema" else ""
    found = [row for row in evals if row["step"] == subject.step]
    return float(column(found[-1:] or [{}], prefix + field).item())


def _last(evals: list[Row], split: str) -> tuple[str, str]:
    """Top-1 of the last evaluation, and which one that is."""
    if not evals:
        return "-", "not evaluated"
    plain, ema = (column(evals[-1:], field).item() for field in ("top1", "ema_top1"))
    averaged = f"; averaged weights {share(ema)}" if math.isfinite(ema) else ""
    return share(plain), f"last evaluation, step {evals[-1]['step']:,}{averaged}; {split}"


def _mistakes(p: Predictions, names: Sequence[str], picture: Callable[[int], np.ndarray]) -> str:
    """The wrong predictions of highest loss, as pictures; a NaN loss comes last."""
    n = len(p.label)
    wrong = np.flatnonzero(p.label != p.prediction)
    worst = wrong[np.argsort(-p.loss[wrong], kind="stable")][:MISTAKES].tolist()
    if not worst:
        said = f"No mistakes: all {n:,} predictions are right." if n else "No examples evaluated."
        return f"<p>{said}</p>"
    figures = "\n".join(
        f"<figure>{_image(picture(i))}<figcaption><b>{text(names[p.label[i]])}</b>"
        f"<span>taken for <b>{text(class_name(names, p.prediction[i]))}</b></span>"
        f"<span>confidence {share(float(p.confidence[i]))}</span>"
        f"<span>loss {number(float(p.loss[i]), '.3f')}</span>"
        f"<small>{text(p.name[i])}</small></figcaption></figure>"
        for i in worst
    )
    return (
        f"<p>{len(wrong):,} of {n:,} predictions are wrong ({share(len(wrong), n)}). "
        f'By loss, the worst {len(worst)}:</p>\n<div class="pictures">\n{figures}\n</div>'
    )


def _image(pixels: np.ndarray) -> str:
    """uint8 [H, W, 1 or 3] as an <img>; small ones are enlarged by a whole factor, unsmoothed."""
    from PIL import Image  # here, so that importing this module stays cheap

    png = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(png, "PNG")
    height, width = pixels.shape[:2]
    scale = 128 // max(height, width) if max(height, width) < 64 else 1
    data = base64.b64encode(png.getvalue()).decode()
    return (
        f'<img class="x{scale}" width="{width * scale}" height="{height * scale}" alt="" '
        f'src="data:image/png;base64,{data}">'
    )
