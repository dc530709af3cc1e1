"""The report, parsed as by a browser and compared with numbers computed by hand."""

import base64
import datetime
import html.parser
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.learn.tasks import Classify
from train.report.base import Examples
from train.report.page import Subject, write_report

pytestmark = pytest.mark.filterwarnings("error")

VOID = {"meta", "link", "img", "br", "hr", "input"}
WRITTEN = datetime.datetime(2026, 11, 28, 4, 5, tzinfo=datetime.UTC)
EVIL = "<script>alert('1')</script>\"&"


class Page(html.parser.HTMLParser):
    """Tags, table cells by table class, text by enclosing tag; checks that tags are balanced."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []  # (path of open tags, text)
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.open: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], "an element is never closed"
        self.text = " ".join(text for where, text in self.texts if "style" not in where.split("/"))

    def handle_starttag(self, tag, attrs):
        attributes = {key: value or "" for key, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append((attributes.get("class", ""), []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not data.strip():
            return
        self.texts.append(("/".join(self.open), data))
        if "td" in self.open or "th" in self.open:
            self.tables[-1][1][-1][-1] += data

    def rows(self, kind: str) -> list[list[str]]:
        """The body rows of all tables of a class."""
        return [row for name, rows in self.tables if name == kind for row in rows[1:]]

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def config(self) -> dict:
        return json.loads("".join(text for where, text in self.texts if where.endswith("/pre")))

    def cards(self) -> dict[str, list[str]]:
        """Card label -> [value, note] (the note may be absent)."""
        cards: dict[str, list[str]] = {}
        for where, text in self.texts:
            if where.endswith("dl/div/dt"):
                cards[text] = []
            elif where.endswith("dl/div/dd"):
                cards[list(cards)[-1]].append(text)
        return cards


def grey(index: int) -> np.ndarray:
    return np.full((8, 8, 1), index % 256, np.uint8)


def predicted(
    label: Sequence[int],
    prediction: Sequence[int],
    loss: Sequence[float] | None = None,
    name: list[str] | None = None,
) -> Examples:
    """Examples of classes that `report` names."""
    n = len(label)
    values = {
        "label": np.array(label, np.int32),
        "prediction": np.array(prediction, np.int32),
        "confidence": np.full(n, 0.5, np.float32),
        "loss": np.array([0.1] * n if loss is None else loss, np.float32),
    }
    return Examples(values, name or [f"test[{i}]" for i in range(n)], [], grey)


def report(
    workdir: Path,
    examples: Examples,
    names: Sequence[str],
    metrics: str | list[dict] | None = None,
    config: dict | None = None,
    picture: Callable[[int], np.ndarray] = grey,
    subject: Subject = Subject(),  # noqa: B008
) -> Page:
    if isinstance(metrics, list):
        metrics = "".join(json.dumps(row) + "\n" for row in metrics)
    if metrics is not None:
        (workdir / "metrics.jsonl").write_text(metrics, "utf-8")
    if config is not None:
        (workdir / "config.json").write_text(json.dumps(config), "utf-8")
    examples = replace(examples, class_names=names, picture=picture)
    path = write_report(workdir, Classify(), examples, subject=subject, written=WRITTEN)
    assert path == workdir / "report" / "index.html"
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]  # no temporary file is left
    return Page(path)


def evaluation(step: int, top1: float, **more: float) -> dict:
    return {"step": step, "epoch": step / 10, "split": "eval", "loss": 1.0, "top1": top1} | more


def training(step: int, **more: float | None) -> dict:
    return {"step": step, "epoch": step / 10, "split": "train", "loss": 2.0, "lr": 0.1} | more


# cat: 3 of 4 right, one taken for dog. dog: 1 of 3, two for cat. eel: none of 1. fox: no example.
ANIMALS = ["cat", "dog", "eel", "fox"]
LABEL = [0, 0, 0, 0, 1, 1, 1, 2]
PREDICTION = [0, 0, 0, 1, 1, 0, 0, 3]


def test_confusion_matrix_counts_rows_as_true_class(tmp_path):
    page = report(tmp_path, predicted(LABEL, PREDICTION), ANIMALS)
    assert page.rows("matrix") == [
        ["cat", "3", "1", "0", "0"],
        ["dog", "2", "1", "0", "0"],
        ["eel", "0", "0", "0", "1"],
        ["fox", "0", "0", "0", "0"],
    ]
    cells = [a for a in page.attributes("td") if "title" in a]
    assert cells[4]["title"] == "dog as cat: 2 of 3 (66.67%)"
    assert cells[4]["style"] == "--v:0.816"  # the square root of 2/3
    assert [cells[0]["class"], cells[1]["class"]] == ["right", "wrong"]


def test_counts_move_to_the_tooltip_beyond_20_classes(tmp_path):
    names = [f"c{i}" for i in range(21)]
    page = report(tmp_path, predicted([3, 3], [3, 20]), names)
    rows = page.rows("matrix dense")
    assert len(rows) == 21 and set(rows[3][1:]) == {""}
    assert "c3 as c20: 1 of 2 (50.00%)" in [a.get("title") for a in page.attributes("td")]


def test_scores_of_classes_are_sorted_worst_first(tmp_path):
    """Recall, precision and F1 by hand: 3 of 5 predicted cats are cats, 1 of 2 dogs."""
    page = report(tmp_path, predicted(LABEL, PREDICTION), ANIMALS)
    assert page.rows("classes") == [
        ["eel", "1", "0.00%", "-", "0.00%", "fox (1)"],
        ["dog", "3", "33.33%", "50.00%", "40.00%", "cat (2)"],
        ["cat", "4", "75.00%", "60.00%", "66.67%", "dog (1)"],
        ["fox", "0", "-", "0.00%", "-", "-"],
    ]
    assert "Means over the classes: recall 36.11%, precision 36.67%, F1 35.56%." in page.text
    bars = [a["style"] for a in page.attributes("tr") if "style" in a]
    assert bars == ["--v:0.0000", "--v:0.3333", "--v:0.7500", "--v:0.0000"]


def test_many_classes_list_confusions_and_fold_the_rest(tmp_path):
    # Class i is taken for i + 1 i times in 100: the 30 most frequent are 59 ... 30.
    label = np.repeat(np.arange(60), 100)
    wrong = np.tile(np.arange(100), 60) < label
    page = report(
        tmp_path,
        predicted(label, np.where(wrong, (label + 1) % 60, label)),
        [f"c{i}" for i in range(60)],
    )
    assert not page.rows("matrix") and not page.rows("matrix dense")
    confusions = page.rows("confusions")
    assert confusions[0] == ["c59", "c0", "59", "59.00%"]
    assert [row[2] for row in confusions] == [str(n) for n in range(59, 29, -1)]
    tables = [rows for kind, rows in page.tables if kind == "classes"]
    assert [len(rows) - 1 for rows in tables] == [50, 10]
    # c59 has 41 right of 100, and 99 predictions; c0 100 right of 100, and 159 predictions.
    f1 = {row[0]: row[4] for table in tables for row in table[1:]}
    assert f1["c59"] == "41.21%" and f1["c0"] == "77.22%"
    assert ("The other 10 classes" in page.text) and tables[0][1][0] == "c59"


def test_worst_mistakes_are_wrong_and_by_loss(tmp_path):
    # The highest losses of all, 99 and NaN, are a right prediction and one that cannot be ranked.
    loss = [99, 1, 5, np.nan, 3, np.inf]
    predictions = predicted([0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 0, 0], loss)
    shown = []

    def picture(index):
        shown.append(index)
        return grey(index)

    page = report(tmp_path, predictions, ["a", "b"], picture=picture)
    assert shown == [5, 2, 4, 1, 3]
    names = [text for where, text in page.texts if where.endswith("figcaption/small")]
    assert names == ["test[5]", "test[2]", "test[4]", "test[1]", "test[3]"]
    bold = [text for where, text in page.texts if where.endswith("/b")]
    assert bold[:4] == ["b", "a", "a", "b"]  # true, predicted, true, predicted
    assert "confidence 50.00%" in page.text and "5 of 6 predictions are wrong" in page.text


def test_at_most_24_mistakes_are_shown(tmp_path):
    page = report(tmp_path, predicted([0] * 40, [1] * 40, range(40)), ["a", "b"])
    names = [text for where, text in page.texts if where.endswith("figcaption/small")]
    assert names == [f"test[{i}]" for i in range(39, 15, -1)]


@pytest.mark.parametrize("shape", [(28, 20, 1), (32, 32, 3), (70, 90, 3)])
def test_pictures_hold_exactly_the_pixels(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    page = report(tmp_path, predicted([0], [1]), ["a", "b"], picture=lambda i: pixels)
    (image,) = page.attributes("img")
    payload = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
    decoded = Image.open(io.BytesIO(payload))
    assert decoded.mode == ("L" if shape[-1] == 1 else "RGB")
    np.testing.assert_array_equal(np.asarray(decoded).reshape(shape), pixels)
    factor = {28: 4, 32: 4, 70: 1}[shape[0]]
    assert (int(image["height"]), int(image["width"])) == (shape[0] * factor, shape[1] * factor)
    assert image["class"] == f"x{factor}"


def test_no_mistakes_and_no_examples_are_reported(tmp_path):
    page = report(tmp_path, predicted([0, 1], [0, 1]), ["a", "b"])
    assert "No mistakes: all 2 predictions are right." in page.text
    assert not page.attributes("img")
    page = report(tmp_path, predicted([], []), ["a", "b"])
    assert "No examples evaluated." in page.text and "No mistakes" not in page.text
    assert page.cards()["Top-1 accuracy"][0] == page.cards()["Loss"][0] == "-"


@pytest.mark.parametrize("classes", [2, 60])
def test_everything_given_is_escaped(tmp_path, classes):
    names = [EVIL, "b"] + [f"c{i}" for i in range(classes - 2)]
    config = {
        "recipe": EVIL,
        "model": {"name": EVIL, EVIL: [EVIL, {"x": EVIL}]},
        "parameters": EVIL,
    }
    page = report(tmp_path, predicted([0, 1], [1, 0], name=[EVIL, "x"]), names, config=config)
    assert not page.attributes("script")
    # Title and heading (twice each), two cards, a file name; class names throughout.
    assert page.text.count(EVIL) >= 10
    assert page.config() == config
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    titles = [a["title"] for a in page.attributes("td") if "title" in a]
    assert not titles or titles[1] == f"{EVIL} as b: 1 of 1 (100.00%)"


def test_page_is_self_contained(tmp_path):
    metrics = [training(1), evaluation(1, 0.5), training(2), evaluation(2, 0.6, ema_top1=0.7)]
    page = report(tmp_path, predicted([0, 1], [1, 1]), ["a", "b"], metrics, {"recipe": "r"})
    assert not {"script", "link", "iframe", "object", "base", "a"} & {tag for tag, _ in page.tags}
    assert "://" not in page.source and "@import" not in page.source and "url(" not in page.source
    sources = [a[key] for _, a in page.tags for key in ("src", "href", "srcset") if key in a]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert page.attributes("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in page.attributes("meta")
    assert "viewport" in [a.get("name") for a in page.attributes("meta")]


def test_torn_lines_are_skipped(tmp_path):
    good = json.dumps(evaluation(10, 0.5)) + "\n"
    # Torn by a kill, continued after a resume, then torn in the middle of a character.
    text = (
        good
        + '{"step": 20, "sp'
        + good
        + '[1]\n{"step": "9", "split": "eval", "top1": 1}\n'
        + json.dumps(evaluation(30, 0.7))
        + "\n"
    )
    (tmp_path / "metrics.jsonl").write_bytes(text.encode() + b'{"step": 40, "split": "\xc3')
    page = report(tmp_path, predicted([0], [0]), ["a"])
    assert page.cards()["Top-1 accuracy at the end"][0] == "70.00%"
    assert page.cards()["Steps"] == ["30", "3 epochs"]
    assert "Unreadable lines skipped: 4." in page.text


def test_no_metrics_and_no_config(tmp_path):
    for metrics in (None, "", "\n"):
        page = report(tmp_path, predicted([0], [0]), ["a"], metrics)
        assert "No metrics yet." in page.text and "No config.json." in page.text
        assert not page.attributes("svg")
        assert page.cards()["Top-1 accuracy at the end"] == ["-", "not evaluated"]
        assert page.cards()["Model"] == ["-"] and page.cards()["Loss"][0] == "0.1"


def test_config_is_shown_whole(tmp_path):
    config = {"optim": {"lr": 0.1, "betas": [0.9, 0.99]}, "dir": None, "stages": [{"n": 7}, {}]}
    page = report(tmp_path, predicted([0], [0]), ["a"], config=config)
    assert page.config() == config


def test_file_names_that_are_not_utf8_do_not_stop_it(tmp_path):
    page = report(tmp_path, predicted([0], [1], name=["caf\udce9.png"]), ["é", "b"])
    assert "caf\\xe9.png" in page.text and "é" in page.text


def test_a_failed_report_leaves_the_old_one(tmp_path):
    old = report(tmp_path, predicted([0], [0]), ["a"]).source

    def picture(index):
        raise OSError("the image is gone")

    with pytest.raises(OSError, match="gone"):
        report(tmp_path, predicted([0], [1]), ["a", "b"], picture=picture)
    assert (tmp_path / "report" / "index.html").read_text("utf-8") == old


def test_predictions_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"prediction in 0\.\.2, but there are 2 classes"):
        report(tmp_path, predicted([0, 1], [0, 2]), ["a", "b"])
    with pytest.raises(ValueError, match=r"differ in length: \{'label': 2, 'prediction': 1"):
        report(tmp_path, predicted([0, 1], [0]), ["a", "b"])
    with pytest.raises(ValueError, match=r"differ in length: .*'name': 1"):
        report(tmp_path, predicted([0, 1], [0, 1], name=["one"]), ["a", "b"])
