"""The charts of the report: curves to scale, gaps, colours."""

import json
import re

import numpy as np
import pytest

from tests.report.test_report import Page, evaluation, predicted, report, training
from train.report.curves import LINES
from train.report.metrics_file import read_metrics


def curves(page: Page, name: str) -> list[list[list[tuple[float, float]]]]:
    """Each chart's curve of a name, as continuous pieces of (x, y) points."""
    found = re.findall(rf'<g class="{name}">\s*<path d="([^"]*)" style="([^"]*)"', page.source)
    assert all(f"stroke: {LINES[name]['color']}" in style for _, style in found)
    assert all(("dasharray" in style) == (name == "EMA") for _, style in found)
    return [
        [
            [(float(x), float(y)) for x, y in re.findall(r"(\S+) (\S+) *\n", piece)]
            for piece in data.split("M")[1:]
        ]
        for data, _ in found
    ]


def marks(page: Page, name: str) -> list[int]:
    """The number of marked points on each chart's curve of a name."""
    groups = re.findall(rf'<g class="{name}">(.*?)<g class="(?!line2d)', page.source, re.DOTALL)
    return [group.count("<use ") for group in groups]


def charts(page: Page) -> list[list[str]]:
    """The text of each chart."""
    svgs = re.findall("<svg.*?</svg>", page.source, re.DOTALL)
    return [re.findall(r"<text[^>]*>([^<]*)</text>", svg) for svg in svgs]


def test_repeated_steps_of_a_resumed_run_count_once(tmp_path):
    metrics = [training(s, seconds=10, images_per_sec=s) for s in (1, 2, 4, 2, 3, 4)]
    page = report(tmp_path, predicted([0], [0]), ["a"], metrics)
    assert page.cards()["Training time"] == ["0:00:40", "h:mm:ss"]
    ((points,), _) = curves(page, "train")
    across = [x for x, _ in points]
    assert len(across) == 4 and across == sorted(across)


def test_rows_are_read_in_order_of_step(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert read_metrics(file) == []
    # As text, 100 comes before 9. The second attempt at step 9 is the one that counts.
    rows = [training(9), evaluation(100, 0.7), evaluation(9, 0.5), training(100), training(10)]
    again = training(9, loss=1.0)
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, again]) + '{"step": 11, "s')
    assert read_metrics(file) == [again, rows[2], rows[4], rows[1], rows[3]]
    page = report(tmp_path, predicted([0], [0]), ["a"])
    assert page.cards()["Top-1 accuracy at the end"][0] == "70.00%"
    for name in ("train", "eval"):
        for pieces in curves(page, name):
            across = [x for piece in pieces for x, _ in piece]
            assert across == sorted(across) and len(across) > 1


def test_nan_and_infinity_are_gaps(tmp_path):
    losses = [3.0, 2.0, float("nan"), 1.5, float("inf"), 1.0, 0.5, None]
    metrics = [training(i, loss=loss) for i, loss in enumerate(losses)]
    page = report(tmp_path, predicted([0], [0]), ["a"], metrics)
    (loss, _) = curves(page, "train")  # the other chart is the learning rate; top-1 has no values
    assert [len(piece) for piece in loss] == [2, 1, 2]
    assert marks(page, "train") == [1, 0]  # a single point, invisible as a line
    assert not re.search(r"\b(nan|inf)\b", page.source)
    assert "Top-1 accuracy (%): no values yet." in page.text


def test_curves_are_to_scale(tmp_path):
    metrics = [evaluation(s, top1, ema_top1=0.5) for s, top1 in ((0, 0.0), (50, 0.5), (100, 1.0))]
    page = report(tmp_path, predicted([0], [0]), ["a"], metrics)
    ((x0, y0), (x1, y1), (x2, y2)) = curves(page, "eval")[1][0]
    assert x0 < x2 and y0 > y2  # time goes right; accuracy goes up, which is down in SVG
    assert [x1, y1] == pytest.approx([(x0 + x2) / 2, (y0 + y2) / 2], abs=0.1)
    ((ema,),) = curves(page, "EMA")
    assert {y for _, y in ema} == {y1}
    loss, accuracy = charts(page)
    assert {"Loss (nats per example)", "Epochs", "eval"} <= set(loss) and "EMA" not in loss
    assert {"Top-1 accuracy (%)", "Epochs", "0", "100", "eval", "EMA"} <= set(accuracy)


def test_few_evaluations_are_marked(tmp_path):
    for n, marked in ((40, 40), (41, 0)):
        page = report(tmp_path, predicted([0], [0]), ["a"], [evaluation(i, 0.5) for i in range(n)])
        assert marks(page, "eval") == [marked, marked]
    page = report(tmp_path, predicted([0], [0]), ["a"], [training(i) for i in range(10)])
    assert marks(page, "train") == [0, 0]


def test_steps_are_the_axis_where_epochs_are_missing(tmp_path):
    metrics = [{"step": 5, "split": "train", "loss": 1}, training(1000)]
    page = report(tmp_path, predicted([0], [0]), ["a"], metrics)
    for texts in charts(page):
        assert "Steps" in texts and "1,000" in texts and "Epochs" not in texts


def test_charts_take_colour_and_font_from_the_page(tmp_path):
    metrics = [training(i) for i in range(3)] + [evaluation(i, 0.5, ema_loss=1.0) for i in range(3)]
    page = report(tmp_path, predicted([0], [0]), ["a"], metrics)
    svg = "".join(re.findall("<svg.*?</svg>", page.source, re.DOTALL))
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    assert colours == {"none", "currentColor", "#b0b0b0"} | {
        look["color"] for look in LINES.values()
    }
    assert "svg text { font-family: inherit !important }" in page.source
    assert "fill: currentColor }" in page.source  # matplotlib writes black text without a fill
    assert len(charts(page)) == 3
    # Three drawings on one page: no id may be defined twice, and each used id must be defined.
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    used = {attributes["xlink:href"] for _, attributes in page.tags if "xlink:href" in attributes}
    assert len(ids) == len(set(ids)) and used == {f"#{i}" for i in ids}
    again = report(tmp_path, predicted([0], [0]), ["a"])
    assert again.source == page.source


def luminance(colour: str) -> float:
    """WCAG 2 relative luminance of "#rrggbb"."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("page", ["#ffffff", "#14181c"])
@pytest.mark.parametrize("line", LINES)
def test_lines_can_be_seen_on_both_pages(line, page):
    low, high = sorted((luminance(LINES[line]["color"]), luminance(page)))
    assert (high + 0.05) / (low + 0.05) > 3  # WCAG 2.2, 1.4.11: graphical objects
