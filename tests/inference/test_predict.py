"""`predict`: folders, files that are no images, names of every kind, and its CSV file."""

import csv
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax import save_weights
from tests.resnet_jax.test_convert import random_variables
from tests.runs import resnet_jax
from train.__main__ import main
from train.config import ConfigError
from train.inference.predict import Answer, Prediction
from train.inference.predictions import image_files, show
from train.printable import csv_cell, csv_path, one_line, utf8

NAME = "resnet8_cifar"
BYTES = os.fsdecode(b"caf\xe9.png")  # no UTF-8


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    save_weights(random_variables(NAME, 3), path, NAME)
    return path


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predict(weights: Path, *args: object) -> int:
    return main(["predict", NAME, *map(str, args), "--weights", str(weights)])


# --- which files ---------------------------------------------------------------------------------


def test_a_folder_is_all_images_in_it(tmp_path, capsys):
    wanted = [
        picture(tmp_path / "d" / name) for name in ("a.JPG", "b/c.png", "b/d/e.bmp", "z.jpeg")
    ]
    for name in (".hidden.png", "._a.jpg", "b/.cache/f.png"):
        picture(tmp_path / "d" / name)
    for name in ("notes.txt", "b/more.txt", "README"):
        (tmp_path / "d" / name).write_text("no image")
    (tmp_path / "d" / "again").symlink_to(tmp_path / "d")
    alone = tmp_path / "alone.txt"
    found = image_files([str(alone), str(tmp_path / "d"), str(wanted[0])])
    assert found == [alone, *wanted, wanted[0]]  # what is named is read, whatever it is called
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {tmp_path / 'd'}: 7 files or folders are not read as images: ")
    for part in ("*.txt: 2 (", "without an extension: 1 (README)", "linked folder: 1 (again)"):
        assert part in err


def test_a_folder_in_the_home_directory(tmp_path, monkeypatch):
    wanted = picture(tmp_path / "photos" / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert image_files(["~/photos"]) == [wanted]
    assert image_files(["~1.png"]) == [Path("~1.png")]


def test_predictions_of_a_folder(weights, tmp_path, capsys):
    """In order, one after the other, with the unreadable ones in their places."""
    photos = tmp_path / "photos"
    picture(photos / "a.png", 1)
    (photos / "b.png").write_text("no image at all")
    picture(photos / "c.png", 2)
    missing, table = tmp_path / "missing.jpg", tmp_path / "table.csv"
    assert predict(weights, missing, photos, "--csv", table) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0] == f"error: {missing}: No such file or directory"
    assert lines[1].startswith(f"error: {photos / 'b.png'}: not an image")
    assert lines[2:] == [f"wrote 8 rows to {table}", "error: 2 of 4 images could not be read"]
    found = rows(table)
    order = [missing, *[photos / "a.png"] * 3, photos / "b.png", *[photos / "c.png"] * 3]
    assert [row["image"] for row in found] == list(map(str, order))
    assert [row["rank"] for row in found] == ["", "1", "2", "3", "", "1", "2", "3"]
    assert found[0]["error"] == "No such file or directory" and not found[0]["class"]
    assert found[4]["error"].startswith("not an image") and found[1]["error"] == ""
    assert out.count("%") == 6 and out.count("not read") == 2
    alone = tmp_path / "alone.csv"
    assert predict(weights, photos / "c.png", "--csv", alone) == 0  # the same whoever is beside it
    assert rows(alone) == found[5:]


def test_nothing_that_can_be_read(weights, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert predict(weights, tmp_path / "empty") == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"error: .*empty: a folder without images \(\.jpg, .*\n", err)
    assert out.count("\n") == 1  # no empty table after the preprocessing
    assert predict(weights, tmp_path / "empty", tmp_path / "x.png") == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"error: {tmp_path / 'x.png'}: No such file or directory",
        "error: 2 of 2 images could not be read",
    ]


def test_a_table_that_cannot_be_written_is_an_error_before_anything_is_computed(
    weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "train.inference.predict._read", lambda *_: pytest.fail("an image was read")
    )
    image = picture(tmp_path / "a.png")
    assert predict(weights, image, "--csv", tmp_path / "no" / "table.csv") == 2
    assert "table.csv: No such file or directory" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_message():
    with pytest.raises(ConfigError, match=r"^/dev/full: No space left on device$") as caught:
        show([Answer(Path("a.png"), [Prediction("cat", 1.0)])], 1, Path("/dev/full"))
    assert caught.value.__suppress_context__


def test_the_rows_of_a_table_are_counted(tmp_path, capsys):
    predictions = [Prediction("cat", 0.6), Prediction("dog", 0.4)]
    answers = [Answer(Path("a.png"), predictions), Answer(Path("b.png"), [], "broken")]
    with pytest.raises(ConfigError, match="1 of 2 images"):
        show(answers, 2, tmp_path / "t.csv")
    assert f"wrote 3 rows to {tmp_path / 't.csv'}\n" in capsys.readouterr().err


# --- names of classes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\nbird",
        b"\xef\xbb\xbfcat\r\ndog\r\nbird\r\n",  # as Notepad writes it
        b"\n cat \n\ndog\n\n\nbird\n\n",
        b"cat\rdog\rbird\r",
    ],
)
def test_class_names_as_editors_write_them(weights, tmp_path, content, capsys):
    (tmp_path / "names.txt").write_bytes(content)
    table = tmp_path / "table.csv"
    options = ("--classes", tmp_path / "names.txt", "--csv", table)
    assert predict(weights, picture(tmp_path / "a.png"), *options) == 0
    assert {row["class"] for row in rows(table)} == {"cat", "dog", "bird"}


def test_class_names_in_another_encoding(weights, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("cat\ndog\nbird\n", encoding="utf-16")
    assert predict(weights, picture(tmp_path / "a.png"), "--classes", tmp_path / "names.txt") == 2
    assert "names.txt: not a text file in UTF-8" in capsys.readouterr().err


def test_cells_that_a_spreadsheet_would_compute(weights, tmp_path, monkeypatch, capsys):
    """Class names get a ' in front; a file's name stays the path of that file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("=1+1\n@SUM(A1)\n-1\n")
    picture(tmp_path / "=cmd.png")
    assert predict(weights, "=cmd.png", "--classes", "names.txt", "--csv", "t.csv") == 0
    found = rows(tmp_path / "t.csv")
    assert {row["class"] for row in found} == {"'=1+1", "'@SUM(A1)", "-1"}
    assert {row["image"] for row in found} == {"./=cmd.png"} and Path("./=cmd.png").is_file()


@pytest.mark.parametrize(
    "text, cell",
    [
        ("=a", "'=a"),
        ("+a", "'+a"),
        ("-a", "'-a"),
        ("@a", "'@a"),
        ("\ta", "'\ta"),
        ("-0.5", "-0.5"),
        ("+3", "+3"),
        ("-1+cmd", "'-1+cmd"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_cells(text, cell):
    assert csv_cell(text) == cell
    assert csv_path(Path("x", text)) == str(Path("x", text))


# --- names that no terminal has ------------------------------------------------------------------


def test_names_that_are_not_utf8(weights, tmp_path, capsys):
    image, table = picture(tmp_path / BYTES), tmp_path / "table.csv"
    names = tmp_path / "names.txt"
    names.write_text("été\n猫\nc\n", encoding="utf-8")
    assert predict(weights, image, "--csv", table, "--classes", names) == 0
    assert "caf\\xe9.png" in capsys.readouterr().out.replace("\n", "")
    assert {row["image"] for row in rows(table)} == {f"{tmp_path}/caf\\xe9.png"}
    assert {row["class"] for row in rows(table)} == {"été", "猫", "c"}


@pytest.mark.parametrize(
    "encoding, classes", [("ascii", ("\\xe9t\\xe9", "\\u732b")), ("utf-8", ("été", "猫"))]
)
def test_a_strict_terminal(weights, tmp_path, encoding, classes, monkeypatch):
    """All is printed, with escapes for what the terminal lacks."""
    monkeypatch.setenv("PYTHONIOENCODING", f"{encoding}:strict")
    picture(tmp_path / BYTES)
    names = tmp_path / "names.txt"
    names.write_text("été\n猫\nc\n", encoding="utf-8")
    (tmp_path / os.fsdecode(b"\xff.png")).write_text("no image")
    options = ("--weights", str(weights), "--classes", str(names))
    done = resnet_jax("predict", NAME, str(tmp_path), *options, "--csv", str(tmp_path / "t.csv"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "1 of 2 images could not be read" in done.stderr and "\\xff.png: " in done.stderr
    assert "caf\\xe9.png" in done.stdout.replace("\n", "") and done.stdout.count("%") == 3
    assert all(name in done.stdout for name in classes)
    assert len(rows(tmp_path / "t.csv")) == 4


@pytest.mark.parametrize(
    "name, shown",
    [
        (os.fsdecode(b"\xff\xfe"), "\\xff\\xfe"),
        ("\ud800", "\\ud800"),
        ("a\nb", "a\\nb"),
        ("\x1b[31m", "\\x1b[31m"),
        ("é 猫", "é 猫"),
    ],
)
def test_names_in_a_line(name, shown):
    assert one_line(name) == shown
    utf8(name).encode("utf-8")  # can be written
