"""Numbers, tables and pictures as the text and HTML of a report."""

import base64
import html
import io
import math
from collections.abc import Iterable
from typing import Literal

import numpy as np

from train.learn.tasks import Metric


def text(value: object) -> str:
    """Text that is safe inside HTML."""
    return html.escape(str(value))


def share(part: float, whole: float = 1) -> str:
    """A share in percent; "-" if it is not a number."""
    return f"{100 * part / whole:.2f}%" if whole and math.isfinite(part) else "-"


def number(value: float, form: str = ",.0f") -> str:
    """A number in a format; "-" if it is not finite."""
    return format(value, form) if math.isfinite(value) else "-"


def metric_text(metric: Metric, value: float | None) -> str:
    """A value of a metric; "-" if there is none."""
    if value is None:
        return "-"
    return share(value) if metric.unit == "%" else number(value, ".4g")


def table(kind: str, head: Iterable[object], rows: Iterable[str]) -> str:
    """A table of the CSS class `kind` from its column titles and rows."""
    titles = "".join(f'<th scope="col"><span>{text(title)}</span></th>' for title in head)
    return (
        f'<div class="wide"><table class="{kind}">\n<thead><tr>{titles}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def row(*cells: object, bar: float = 0) -> str:
    """A row of a table; `bar` in 0..1 is the length of the bar in its bar column, if it has one."""
    tds = "".join(f"<td>{text(cell)}</td>" for cell in cells)
    return f'<tr style="--v:{bar:.4f}">{tds}</tr>'


def image(pixels: np.ndarray, kind: Literal["PNG", "JPEG"] = "PNG") -> str:
    """uint8 [H, W, 1 or 3] as an <img>; small ones are enlarged by a whole factor, unsmoothed."""
    from PIL import Image  # here, so that importing this module stays cheap

    file = io.BytesIO()
    whole = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    whole.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))
    height, width = pixels.shape[:2]
    scale = 128 // max(height, width) if max(height, width) < 64 else 1
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img class="x{scale}" width="{width * scale}" height="{height * scale}" alt="" '
        f'src="data:image/{kind.lower()};base64,{data}">'
    )
