"""train/data/sources/csv_list.py: rows of `path,label`, and messages that name the row."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.examples import names, picture, refusal
from tests.report.test_report import Page
from tests.runs import tiny
from train.cli.choose_recipe import choose
from train.config import ConfigError, DataConfig, ModelConfig
from train.data.sources import open_splits
from train.inference.evaluate import evaluate_run
from train.report.metrics_file import read_metrics
from train.run.fit import fit

ROWS = [f"images/{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(20)]


def csv(path: Path, *rows: str, header: str = "") -> DataConfig:
    """Writes the rows, and a picture for each relative path of `ROWS`."""
    for i in range(len(ROWS)):
        if not (file := path.parent / "images" / f"{i}.png").exists():
            picture(file, value=10 * i, size=8)
    path.write_text("\n".join([*([header] if header else []), *rows]) + "\n", encoding="utf-8")
    return DataConfig(name="csv", dir=str(path), eval_fraction=0.4)


def everything(config: DataConfig) -> list[tuple[str, str]]:
    splits = open_splits(config)
    classes = splits.train.class_names
    pairs = [(s.name(i), classes[s[i].label]) for s in splits for i in range(len(s))]
    return sorted(pairs)


EXPECTED = sorted(tuple(row.split(",")) for row in ROWS)


@pytest.mark.parametrize("header", ["", "path,label", "\ufeffPath , Label", "whatever,it is"])
def test_with_a_header_or_without(tmp_path, header):
    assert everything(csv(tmp_path / "a.csv", *ROWS, header=header)) == EXPECTED


def test_titles_name_the_columns(tmp_path):
    rows = [f"{i},{row.partition(',')[2]},x,{row.partition(',')[0]}" for i, row in enumerate(ROWS)]
    assert everything(csv(tmp_path / "a.csv", *rows, header="id,class,more,image")) == EXPECTED


def test_absolute_paths_quotes_and_blank_lines(tmp_path):
    picture(tmp_path / "else" / "a,b.png")
    rows = [f'"{tmp_path}/else/a,b.png","dog, large"', "", *ROWS]
    config = csv(tmp_path / "a.csv", *rows)
    found = everything(config)
    assert ("else/a,b.png", "dog, large") in found and len(found) == 21


def test_numbers_are_in_the_order_of_numbers(tmp_path):
    rows = [f"images/{i}.png,{(9, 10, 2)[i % 3]}" for i in range(20)]
    assert open_splits(csv(tmp_path / "a.csv", *rows)).train.class_names == ["2", "9", "10"]


def test_the_held_out_share_is_that_of_each_path(tmp_path):
    splits = open_splits(csv(tmp_path / "a.csv", *ROWS))
    held = set(names(splits.eval))
    assert 2 < len(held) < 14
    assert splits.unused.keys() == {"train_split", "eval_split"}
    fewer = open_splits(csv(tmp_path / "b.csv", *reversed(ROWS[:15])))
    assert set(names(fewer.eval)) == held & {row.partition(",")[0] for row in ROWS[:15]}
    by_place = open_splits(replace(csv(tmp_path / "a.csv", *ROWS), held_out="by_place"))
    assert len(by_place.eval) == 8


def in_folder(root: Path, **rows: list[str]) -> DataConfig:
    for name, each in rows.items():
        csv(root / f"{name}.csv", *each, header="path,label")
    return DataConfig(name="csv", dir=str(root), eval_split="val")


def test_a_folder_with_a_file_for_each_split(tmp_path):
    config = in_folder(tmp_path, train=ROWS[:10], val=ROWS[10:14], test=ROWS[14:])
    splits = open_splits(replace(config, test_split="test"))
    assert splits.counts == {"train": 10, "eval": 4, "test": 6}
    assert splits.unused.keys() == {"eval_fraction", "split_seed", "held_out"}
    (tmp_path / "val.csv").unlink()
    splits = open_splits(replace(config, test_split="test", eval_fraction=0.3))
    assert len(splits.test) == 6 and len(splits.train) + len(splits.eval) == 10
    assert splits.unused.keys() == {"eval_split"}
    message = refusal(config)
    assert "val.csv: no such file" in message and "has 'test.csv', 'train.csv'" in message


@pytest.mark.parametrize(
    "rows, message",
    [
        (["images/0.png,cat", "images/no.png,dog"], "line 3: no such file: 'images/no.png'. Rel"),
        (["no.png,cat"] * 3, "line 2: no such file: 'no.png', and 2 more. Relative paths start"),
        (["images/0.png"], "line 2: has 1 column; needs a path and a label"),
        (["images/0.png,"], "line 2: has no label"),
        ([",cat"], "line 2: has no path"),
        (['images/0.png,"cat'], "line 2: unexpected end of data"),
        ([], "split 'train' has no examples"),
        (["images/0.png,cat", "images/1.png,cat"], "has one class only, 'cat'"),
    ],
)
def test_what_is_wrong_with_a_row(tmp_path, rows, message):
    config = in_folder(tmp_path, train=rows, val=ROWS[1:2])
    if "split 'train'" in message:
        (tmp_path / "val.csv").write_text("")
    assert message in refusal(config)


def test_other_refusals(tmp_path):
    config = in_folder(tmp_path, train=ROWS, val=["images/0.png,cow"])
    assert "line 2: class 'cow' has no training images; the training cl" in refusal(config)
    assert "csv needs a CSV file, or a folder" in refusal(replace(config, dir=str(tmp_path / "x")))
    single = replace(config, dir=str(tmp_path / "train.csv"), test_split="test")
    assert "data.test_split 'test': needs a folder with a CSV file for each" in refusal(single)
    (tmp_path / "train.csv").write_bytes("images/0.png,é".encode("latin-1"))
    assert "not a text file in UTF-8" in refusal(config)
    with pytest.raises(ConfigError, match=r"train folder --data.name csv --data.dir .*train.csv"):
        choose(["--data.dir", str(tmp_path / "train.csv")])


def test_a_run_on_a_csv_file(tmp_path):
    """It resumes on the same rows only, and eval evaluates another file whole."""
    config = tiny(
        duration="2st",
        batch_size=8,
        log_every="1st",
        model=ModelConfig(name="resnet8_cifar", depths=(1,), width=8),
        data=replace(csv(tmp_path / "a.csv", *ROWS), image_size=8, threads=0),
    )
    workdir = tmp_path / "run"
    best = fit(config, workdir, quiet=True)
    page = Page(workdir / "report" / "index.html")
    assert page.cards()["Top-1 accuracy"][1].endswith("; held-out share")
    assert evaluate_run(config, workdir, "best") == best
    for i in range(7):
        picture(tmp_path / f"new{i}.png", size=8)
    csv(tmp_path / "b.csv", *(f"new{i}.png,cat" for i in range(7)))
    other = replace(config, data=replace(config.data, dir=str(tmp_path / "b.csv")))
    assert evaluate_run(other, workdir, "best")["examples"] == 7
    [train] = {r["epoch"] for r in read_metrics(workdir / "metrics.jsonl") if r["step"] == 2}
    assert train == pytest.approx(2 * 8 / (20 - best["examples"]))
    row = names(open_splits(config.data).train)[0]
    label = dict(EXPECTED)[row]
    changed = [r for r in ROWS if not r.startswith(f"{row},")]
    csv(tmp_path / "a.csv", *changed, f"{row},{'dog' if label == 'cat' else 'cat'}")
    with pytest.raises(ConfigError, match=r"the training files of .* have changed: 1 added"):
        fit(config, workdir, quiet=True)
