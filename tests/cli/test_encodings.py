"""Names that are not UTF-8 and strict terminals cost no run; every text file is UTF-8."""

import ast
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.runs import MODEL, ROOT, resnet_jax, tiny
from train.console import escape_unencodable, warn
from train.learn.tasks import Classify
from train.report.metrics_file import read_metrics
from train.run.metrics import SkippedStep
from train.run.nonfinite import describe
from train.run.parts import Run
from train.run.progress import Display

BAD = os.fsdecode(b"b\xe4d.png")  # no UTF-8


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes, one of them named in Latin-1; one file is no image, nor is its name UTF-8."""
    rng = np.random.default_rng(0)
    for name in ("cat", os.fsdecode(b"ch\xe4t")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    for split in ("train", "val"):
        (tmp_path / "both" / split).mkdir(parents=True)
        for folder in (tmp_path / "photos").iterdir():
            copy = tmp_path / "both" / split / folder.name
            copy.mkdir()
            for file in folder.iterdir():
                (copy / file.name).write_bytes(file.read_bytes())
    (tmp_path / "both" / "train" / "cat" / BAD).write_text("no image")
    return tmp_path / "both"


def test_a_run_on_a_strict_terminal(photos, tmp_path, monkeypatch):
    """The skipped file is reported, and the report is written."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:strict")
    monkeypatch.setenv("LC_ALL", "C")
    workdir = tmp_path / "run"
    options = (*MODEL, "--data.image_size", "8", "--batch_size", "7", "--duration", "3st")
    options += ("--data.on_bad_image", "skip", "--precision", "fp32", "--data.threads", "0")
    done = resnet_jax(
        "train", "folder", "--data.dir", str(photos), "--workdir", str(workdir), *options
    )
    assert done.returncode == 0, done.stderr
    assert "b\\xe4d.png" in done.stdout + done.stderr
    page = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert "ch\\xe4t" in page
    names = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["class_names"]
    assert names == ["cat", os.fsdecode(b"ch\xe4t")]  # exact, for a resume compares them
    assert read_metrics(workdir / "metrics.jsonl")[-1]["split"] == "eval"


def test_what_a_person_sees_has_escapes(capsys):
    display = Display(1, Classify())
    display.say(f"skipped {BAD}")
    warn(BAD)
    out, err = capsys.readouterr()
    assert out.endswith("skipped b\\xe4d.png\n") and err == "warning: b\\xe4d.png\n"


def test_anomaly_names_examples_in_utf8():
    run = Run(tiny())
    named: Any = _Named(run.splits.train)
    run.__dict__["splits"] = replace(run.splits, train=named)
    found = describe(run, SkippedStep(1, "loss", "nan"))
    assert {entry["name"] for entry in found["examples"]} == {"b\\xe4d.png"}


class _Named:
    """A source all of whose examples have one name."""

    def __init__(self, source: object) -> None:
        self._source = source

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)  # type: ignore[arg-type]

    def name(self, index: int) -> str:
        return BAD


def test_streams_that_cannot_be_reconfigured(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", object())
    escape_unencodable()


def unspecified(tree: ast.AST) -> list[int]:
    """Lines that open a file as text in the encoding of whatever machine it is."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        words = [a.value for a in node.args if isinstance(a, ast.Constant)]
        keywords = {k.arg: k.value for k in node.keywords}
        binary = any(isinstance(word, str) and "b" in word for word in words[-1:])
        text = name in ("read_text", "write_text") or (name == "open" and not binary)
        module = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value)
        if module in ("os", "Image", "ts", "ts.KvStore", "archive", "urllib.request"):
            continue
        if text and "encoding" not in keywords and not (name == "read_text" and words):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("package", ["train", "resnet_jax"])
def test_every_text_file_is_utf8(package):
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in (ROOT / package).rglob("*.py")
        for line in unspecified(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_the_check_of_encodings_finds_them():
    for bad in ("p.read_text()", "p.write_text(x)", "open(p)", "p.open('a')", "open(p, 'w')"):
        assert unspecified(ast.parse(bad)) == [1]
    for good in ("p.read_text('utf-8')", "open(p, 'rb')", "p.open('w', encoding='utf-8')"):
        assert not unspecified(ast.parse(good))
