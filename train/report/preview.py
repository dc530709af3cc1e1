"""A page of what the network sees: each image in several draws, beside the view of evaluation."""

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from train.config.effects import shown
from train.printable import utf8
from train.report.markup import image, text

_LARGE = 64
"""Sides from which an image is stored as JPEG: as PNG, a page of photos takes 10 MB."""


@dataclass(frozen=True)
class View:
    """An image as the network sees it."""

    pixels: np.ndarray
    """uint8 [H, W, 3], without the normalisation."""
    target: np.ndarray
    """float32 [K], the weight of each class in the loss."""


@dataclass(frozen=True)
class Seen:
    """The views of one training image."""

    name: str
    evaluation: View
    draws: Sequence[View]


def write_preview(
    file: Path,
    seen: Sequence[Seen],
    class_names: Sequence[str],
    *,
    title: str,
    options: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    """Writes the page, self-contained.

    Args:
      class_names: by label.
      options: those that are shown above the images, name -> value.
      config: all options, shown on request.

    Raises:
      OSError: the file cannot be written.
    """
    frame = resources.files(__package__).joinpath("preview.html").read_text("utf-8")
    items = (f"<dt>{text(name)}</dt><dd>{text(shown(v))}</dd>" for name, v in options.items())
    page = string.Template(frame).substitute(
        title=text(title),
        options="\n".join(items),
        heads="".join(f"<th>draw {i + 1}</th>" for i in range(len(seen[0].draws))),
        rows="\n".join(_row(each, class_names) for each in seen),
        config=text(json.dumps(config, indent=2, ensure_ascii=False)),
    )
    file.write_text(utf8(page), encoding="utf-8")


def _row(seen: Seen, names: Sequence[str]) -> str:
    cells = "".join(f"<td>{_figure(view, names)}</td>" for view in seen.draws)
    labels = ", ".join(names[label] for label in np.flatnonzero(seen.evaluation.target).tolist())
    about = f"<b>{text(labels or 'no label')}</b><small>{text(seen.name)}</small>"
    return f"<tr><th>{about}</th><td>{_figure(seen.evaluation, names)}</td>{cells}</tr>"


def _figure(view: View, names: Sequence[str]) -> str:
    kind: Literal["JPEG", "PNG"] = "JPEG" if min(view.pixels.shape[:2]) >= _LARGE else "PNG"
    lines = "".join(f"<span>{text(line)}</span>" for line in weights(view.target, names))
    return f"<figure>{image(view.pixels, kind)}<figcaption>{lines}</figcaption></figure>"


def weights(target: np.ndarray, names: Sequence[str]) -> list[str]:
    """The classes that a target favours, with their weights, the largest first.

    Label smoothing gives every class a share; classes that have no more than this are left out.

    >>> weights(np.array([0.025, 0.675, 0.3]), ["ant", "bee", "cat"])
    ['bee 0.675', 'cat 0.300']
    >>> weights(np.array([0.0, 1.0]), ["ant", "bee"])
    ['bee 1.000']
    """
    favoured = np.flatnonzero(target > target.min() + 1e-4)
    order = favoured[np.argsort(-target[favoured], kind="stable")]
    return [f"{names[i]} {target[i]:.3f}" for i in order.tolist()]
