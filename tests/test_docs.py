"""Every command of the README and of the site is run, or its options are parsed, or it is listed
here with the reason why it is neither.

A command that is in no table is a failure, and so is an entry of a table that no page has.
"""

import argparse
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from PIL import Image

import train.plan.planner
import train.run.fit
from tests.documents import PAGES, commands, words
from tests.runs import ROOT
from train.__main__ import main

SMALL = "--model.depths 1 1 --model.width 8 --duration 2st --eval.every 2st --log_every 1st"
PHOTOS = f"{SMALL} --data.image_size 16 --model.stem_pool none"

RUN = {
    r"resnet-jax (--help|--version|recipes( rsb-a2| RECIPE)?|bench COMMAND --help)": "",
    r"resnet-jax train( RECIPE)? --help(-all)?": "",
    r"resnet-jax models( 'resnet50\*'| resnet50)?": "",
    r"resnet-jax models plain20_cifar --init-stats .*": "--model.depths 1 --image_size 8",
    r"resnet-jax train( --seed 0)?": SMALL,
    r"resnet-jax train --workdir (DIR|runs/digits)": "",
    r"resnet-jax train --workdir runs/digits --duration 60ep --extend": "--duration 3st",
    r"resnet-jax train folder --workdir runs/(csv|labels) .*": PHOTOS,
    r"resnet-jax train digits (?!.*(\$TINY|--mesh)).*--workdir .*": SMALL,
    r"resnet-jax train folder --data\.dir DIR( --workdir runs/photos)?": PHOTOS,
    r"resnet-jax lr-find digits .*": SMALL.replace("--duration 2st", "--steps 10"),
    r"resnet-jax preview folder --data\.dir DIR": "--data.image_size 16",
    r"resnet-jax eval runs/(digits|photos)": "",
    r"resnet-jax predict (runs/|resnet20_cifar ).*": "",
    r"resnet-jax convert .*": "",
    r"resnet-jax bench report .*": "",
    r"python -c '.*turbojpeg\.library\(\)\)'": "",
}
"""Commands that are run, and what is added to them so that they take seconds."""

PARSED = {
    r"resnet-jax train folder .* --init\.weights resnet50-11ad3fa6\.pth": "a file of torchvision's",
    r"resnet-jax predict resnet50 \*\.jpg --weights .*": "a file of torchvision's",
    r"resnet-jax predict resnet50\.a1_in1k \*\.jpg": "fetches weights",
    r"resnet-jax train (cifar10|imagenet|rsb)-\S+ --data\.dir TFDS_DIR.*": "needs the data set",
    r"resnet-jax train digits --workdir \S+ --mesh\.coordinator .*": "two processes",
    r"resnet-jax train digits --workdir \S+ \$TINY.*": "run by python -m benchmarks.faults.errors",
    r"resnet-jax plan .*": "compiles for minutes, and needs the compilers of TPUs and GPUs",
    r"resnet-jax bench (?!report|COMMAND).*": "measures for minutes",
    r"python -m benchmarks\.(input|h200).*": "measures for minutes",
    r"python3\.12 -m benchmarks\.wheels .*": "fetches packages",
    r"python -m benchmarks\.faults(\.\S+)? .*": "minutes, as root",
}
"""Commands of which the options are parsed, by the program itself, and why they are not run."""

LISTED = {
    r"(python -m )?pip install .*": "needs a network; .ci/run",
    r"(RESNET_JAX_TEST_ON=gpu )?pytest .*": "this suite",
    r"(ruff|mkdocs|lint-imports) .*|mypy": ".ci/run",
    r"(python|python3\.11|\.venvlow/bin/\w+) (\.ci/|-m venv|install|tests/).*": ".ci/run",
    r"chromium .*": "needs a browser",
    r"python -m tests\.parity\.goldens": "needs torch and timm",
    r"python -m tests\.(cli|recipes)\.\S+": "writes into the checkout",
    r'python -c "import tensorflow_datasets .*': "needs TensorFlow and a network",
    r"(srun|mpirun|gcloud) .*": "a cluster; tests/distributed/test_launch.py parses them",
    r"(tar|cat) .*": "copies a data set",
    r"PYTHONPATH=\S+ python -m benchmarks\.h200 .*": "measures for minutes",
    r"resnet-jax train( digits \.\.\.)? \| head -2": "tests/benchmarks/test_outside.py",
    r"resnet-jax eval run": "run by python -m benchmarks.faults.errors",
}
"""What can be neither run nor parsed here, and why."""

TABLES = [RUN, PARSED, LISTED]
VARIABLES = {"seed": "0", "k": "1", "TINY": "--model.width 8 --duration 400st"}
PLACEHOLDERS = {"RECIPE": "digits", "COMMAND": "step"}
"""What stands for the placeholders of the pages, besides DIR and FILE.npz, which are there."""

ALL = sorted({command for page in PAGES for command in commands(page)})


def entries(command: str, *tables: dict[str, str]) -> list[str]:
    return [p for table in tables or TABLES for p in table if re.fullmatch(p, command)]


def test_every_command_is_in_one_table_and_every_entry_on_a_page():
    for command in ALL:
        found = entries(command)
        assert len(found) == 1, f"in one table of tests/test_docs.py? {command!r}: {found}"
    unused = {p for table in TABLES for p in table} - {p for c in ALL for p in entries(c)}
    assert not unused


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, folder_of_the_session: None) -> Path:
    """What the commands find: photos, arrays, and the runs that others of them leave."""
    place = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for folder, count, suffix in (
        ("DIR/cat", 40, "jpg"),
        ("DIR/dog", 40, "jpg"),
        ("new", 3, "jpg"),
    ):
        (place / folder).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(place / folder / f"{i}.{suffix}")
    Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(place / "one.png")
    images, labels = rng.integers(0, 256, (80, 28, 28), np.uint8), np.arange(80) % 10
    rows = [f"DIR/{name}/{i}.jpg,{name}\n" for name in ("cat", "dog") for i in range(40)]
    (place / "FILE.csv").write_text("path,label\n" + "".join(rows))
    np.savez(place / "FILE.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for command, more in (
            ("resnet-jax train digits --workdir runs/digits", SMALL),
            ("resnet-jax train folder --data.dir DIR --workdir runs/photos", PHOTOS),
            ("resnet-jax convert runs/digits digits.safetensors", ""),
        ):
            assert main(words(f"{command} {more}")[1:]) == 0
    return place


@pytest.mark.parametrize("command", [c for c in ALL if entries(c, RUN)])
def test_command_runs(command, start, tmp_path, monkeypatch):
    place = shutil.copytree(start, tmp_path / "place")
    monkeypatch.chdir(place)
    if command.startswith("resnet-jax train digits") or command == "resnet-jax train --seed 0":
        shutil.rmtree(place / "runs")  # it begins a run
    text = command.replace("--workdir DIR", "--workdir runs/digits")
    for placeholder, value in PLACEHOLDERS.items():
        text = text.replace(placeholder, value)
    (more,) = (RUN[pattern] for pattern in entries(command, RUN))
    program, *args = words(f"{text} {more}", **VARIABLES)
    if program == "python":
        exec(args[1], {})
        return
    try:
        code = main(args)
    except SystemExit as done:  # after help
        code = done.code
    assert code in (0, None)
    if "--workdir" in args and args[0] == "train":
        workdir = place / args[args.index("--workdir") + 1]
        assert (workdir / "report" / "index.html").stat().st_size > 1000
    for name in ("predictions.csv", "digits.safetensors", "digits.npz", "ratios.svg"):
        assert name not in args or (place / name).stat().st_size > 100


class Parsed(Exception):
    """The options were read, and nothing was done."""


def stop_after(real: Callable[..., Any]) -> Callable[..., Any]:
    def parse(*args: Any, **options: Any) -> Any:
        given = real(*args, **options)
        if isinstance(given, tuple) and given[1]:
            return given  # tyro's, with unknown options: the program has its own message for them
        raise Parsed

    return parse


def stop(*args: Any, **options: Any) -> Any:
    raise Parsed


@pytest.mark.parametrize("command", [c for c in ALL if entries(c, PARSED)])
def test_options_are_parsed(command, monkeypatch):
    """By the program itself, as far as what would take minutes: training, compiling, measuring."""
    program, *args = words(command, **VARIABLES)
    if args[0] in ("train", "plan"):
        monkeypatch.setattr(train.run.fit, "fit", stop)
        monkeypatch.setattr(train.plan.planner, "plan", stop)
    else:
        monkeypatch.setattr(tyro, "cli", stop_after(tyro.cli))
        parser = argparse.ArgumentParser
        monkeypatch.setattr(parser, "parse_args", stop_after(parser.parse_args))
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises(Parsed):
        if program == "resnet-jax":
            assert main(args) == "Parsed"  # its code says what went wrong
        else:
            monkeypatch.setattr(sys, "argv", args[1:])
            monkeypatch.delitem(sys.modules, args[1], raising=False)  # another test imported it
            runpy.run_module(args[1], run_name="__main__", alter_sys=False)


@pytest.mark.parametrize(
    "command, message",
    [
        ("resnet-jax train digits --optim.rate 1", "unknown option --optim.rate"),
        ("resnet-jax plan imagenet-resnet50 --topolgy v5e:2x2", "unknown option --topolgy"),
        ("resnet-jax bench step resnet50,16,224 --peer flax", "unknown option --peer"),
    ],
)
def test_a_wrong_option_would_be_found(command, message, monkeypatch, capsys):
    monkeypatch.setattr(train.run.fit, "fit", stop)
    monkeypatch.setattr(train.plan.planner, "plan", stop)
    assert main(words(command)[1:]) == 2
    assert message in capsys.readouterr().err
