"""Arguments of commands: help, both spellings of options, and messages about mistakes."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from tests.runs import ROOT, command, environment
from train.__main__ import main
from train.cli.arguments import parse, suggestions
from train.cli.habits import HABITS
from train.cli.options import COMMON, options
from train.cli.train import TrainArgs
from train.config import ConfigError, RunConfig
from train.config.serialize import flatten, to_json
from train.recipes import get_recipe


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


DIGITS = TrainArgs(get_recipe("digits"), Path("runs/digits"))
KNOWN = options(TrainArgs, DIGITS)


def read(*args: str) -> TrainArgs:
    return parse("train digits", "Text.", TrainArgs, DIGITS, args)


def refusal(*args: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(*args)
    return str(error.value)


@pytest.mark.parametrize(
    "args", [("--batch_size", "32"), ("--batch-size", "32"), ("--batch-size=32",)]
)
def test_both_spellings_are_read(args):
    assert read(*args).config.batch_size == 32
    assert read("--data.image-size", "12").config.data.image_size == 12


REFUSED = {
    ("--seed", "x"): "--seed 'x': needs an integer",
    ("--seed",): "--seed (no value): needs an integer",
    ("--batch-size", "1.5"): "--batch_size '1.5': needs an integer",
    ("--optim.lr", "fast"): "--optim.lr 'fast': needs a number",
    ("--optim.name", "adam"): "--optim.name 'adam': needs sgd, adamw, rmsprop, lars or lamb",
    (
        "--optim.name=adam",
        "--seed",
        "1",
    ): "--optim.name 'adam': needs sgd, adamw, rmsprop, lars or lamb",
    ("--augment.flip", "maybe"): "--augment.flip 'maybe': needs True or False",
    ("--augment.area", "0.1"): "--augment.area '0.1': needs 2 numbers",
    ("--model.depths", "a"): "--model.depths 'a': needs one or more integers",
    ("--model.shortcut", "D"): "--model.shortcut 'D': needs A, B, C or none",
    ("--norm_group_size", "x"): "--norm_group_size 'x': needs an integer or device or None",
    # Errors of the config itself: the whole message, however long.
    ("--optim.lr", "-1"): "optim.lr -1.0: must be positive",
    ("--batch_size", "0"): "batch_size 0: must be at least 1",
    ("--duration", 100 * "9"): f"duration {100 * '9'!r} is not a duration: write '90ep', '500st'",
}


@pytest.mark.parametrize("args", REFUSED)
def test_messages_about_invalid_values(args):
    assert refusal(*args) == REFUSED[args]


UNKNOWN = {
    ("--model", "resnet50"): "--model.name resnet50",
    ("--epochs", "5"): "--duration 5ep",
    ("--epochs=5",): "--duration 5ep",
    ("--lr", "0.1"): "--optim.lr 0.1",
    ("-b", "64"): "--batch_size 64",
    ("--batch", "64"): "--batch_size 64",
    ("--workers", "8"): "--data.threads 8",
    ("--num-workers", "8"): "--data.threads 8",
    ("--output-dir", "x"): "--workdir x",
    ("--mixup", "0.2"): "--mix.mixup 0.2",
    ("--aa", "rand-m9"): "--augment.policy rand-m9",
    ("--color-jitter", "0.4"): "--augment.jitter 0.4 0.4 0.4 0",
    ("--cutmix", "1"): "--mix.cutmix 1",
    ("--reprob", "0.1"): "--mix.erasing 0.1",
    ("--weight-decay", "1e-4"): "--optim.weight_decay 1e-4",
    ("--image-size", "160"): "--data.image_size 160",
    ("--crop-fraction", "1"): "--eval.crop_fraction 1",  # the only option with that ending
    ("--optim.lrr", "1"): "--optim.lr 1, ",
    ("--durration", "5ep"): "--duration 5ep?",
    ("--input-size", "3", "64", "64"): "--data.image_size 64?",
}

SENTENCES = {
    ("--resume", "x"): "run the same command again: it continues the run in its --workdir",
    ("--num-classes", "2"): "the classes are counted from the data; remove this option",
    ("--gpus", "1"): "choose the GPUs before the command: CUDA_VISIBLE_DEVICES=0 ",
}


@pytest.mark.parametrize("args", UNKNOWN)
def test_an_unknown_option_suggests_ours(args):
    message = refusal(*args)
    flag = args[0].partition("=")[0]
    assert message.startswith(f"unknown option {flag}: did you mean {UNKNOWN[args]}")
    assert message.endswith("`resnet-jax train --help-all` lists all options")


@pytest.mark.parametrize("args", SENTENCES)
def test_options_without_counterpart_are_explained(args):
    message = refusal(*args)
    flag = args[0].partition("=")[0]
    assert message.startswith(f"unknown option {flag}: {SENTENCES[args]}")
    assert "did you mean" not in message


def test_suggested_options_exist():
    names = {option.name for option in KNOWN}
    for habit, target in HABITS.items():
        assert habit not in names
        if target.startswith("--"):
            assert target.split()[0].removeprefix("--") in names, habit
        assert "VALUE" not in suggestions(f"--{habit}", "7", sorted(names))


def test_unknown_words_without_a_similar_option():
    assert refusal("--zzzz") == (
        "unknown option --zzzz: `resnet-jax train --help-all` lists all options"
    )
    assert refusal("--seed", "1", "leftover").startswith("'leftover' is not the value of an option")


def test_options_are_those_of_the_config():
    """Names and defaults of the whole config, in the one spelling, each with a help text."""
    shared = {option.name: option for option in KNOWN if option.shared}
    tree = flatten(to_json(DIGITS.config))
    model = {name for name in shared if name.startswith("model.")}
    assert set(shared) == {name for name in tree if name != "recipe"} | model | {"augment.preset"}
    assert len(model) > 30
    for name in set(tree) - {"recipe"}:
        default = shared[name].default
        assert (list(default) if isinstance(default, tuple) else default) == tree[name], name
    assert [option.name for option in KNOWN if not option.doc] == []
    takes = {name: shared[name].takes for name in ("seed", "data.dir", "data.mean", "scan")}
    assert takes == {
        **{"seed": "INT", "data.dir": "TEXT|None", "data.mean": "FLOAT ...|measure|image"},
        "scan": "True|False|None",
    }
    assert shared["norm_group_size"].takes == "INT|device|None"
    assert shared["augment.area"].takes == "FLOAT FLOAT"


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_is_one_screen_of_common_options(capsys):
    page = shown(capsys, "train", "--help")
    named = [line.split()[0] for line in page.splitlines() if line.startswith("  --")]
    assert named == ["--workdir"] + [f"--{name}" for name in COMMON]
    assert len(COMMON) == 11
    assert len(page.splitlines()) < 40
    assert "usage: resnet-jax train [RECIPE] [options]" in page and "cifar10-resnet20" in page
    assert f"--help-all lists all {len(KNOWN)} options of train." in page
    assert "[runs/digits]" in page and "╭" not in page


def test_help_all_lists_every_option_once(capsys):
    page = shown(capsys, "train", "folder", "--help-all")
    named = [line.split()[0] for line in page.splitlines() if line.startswith("  --")]
    assert sorted(named) == sorted(f"--{option.name}" for option in KNOWN)
    assert named.index("--model.name") < named.index("--model.depths")
    text = [line for line in page.splitlines() if not line.startswith("  --")]
    assert "[runs/folder]" in page and max(map(len, text)) <= 100


def test_eval_lists_only_what_it_accepts(capsys):
    page = shown(capsys, "eval", "--help-all")
    named = {line.split()[0] for line in page.splitlines() if line.startswith("  --")}
    assert {"--checkpoint", "--precision", "--data.dir", "--eval.crop_fraction"} < named
    rest = named - {"--checkpoint", "--precision", "--compilation_cache"}
    assert {name.partition(".")[0] for name in rest} == {"--data", "--eval"}
    assert "--data.order" not in named and "--eval.every" not in named
    assert "--optim.lr" not in shown(capsys, "eval", "--help")


def test_help_without_a_run_shows_no_defaults_of_its_options(capsys):
    page = shown(capsys, "eval", "--help")
    assert "best, last, or a step. [best]" in page
    text = page.partition("options [")[2]
    assert text.count("[") == 1
    assert "[0.5" not in shown(capsys, "predict", "--help-all")


def test_plan_and_convert_look_the_same(capsys):
    for args in (("plan", "--help"), ("plan", "folder", "--help"), ("convert", "--help")):
        page = shown(capsys, *args)
        assert page.startswith(f"usage: resnet-jax {args[0]} ") and "╭" not in page
    assert "--topology" in shown(capsys, "plan", "--help")


@dataclass(frozen=True)
class Bench:
    """Arguments such as those of `bench`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    kind: Literal["a", "b"] = "a"
    """Which one."""
    out: Path | None = None
    """A file."""


def test_a_commands_own_options_come_first():
    known = options(Bench, Bench(RunConfig()))
    assert [option.name for option in known if not option.shared] == ["kind", "out"]
    assert [option.takes for option in known if not option.shared] == ["a|b", "PATH|None"]
    given = parse("bench x", "Text.", Bench, Bench(RunConfig()), ["--kind", "b", "--seed", "3"])
    assert (given.kind, given.config.seed) == ("b", 3)
    with pytest.raises(ConfigError, match=r"--kind 'c': needs a or b"):
        parse("bench x", "Text.", Bench, Bench(RunConfig()), ["--kind", "c"])


COMMAND_LINES = {
    ("trian",): "error: unknown command 'trian': did you mean train? choose from train, eval,",
    ("folder",): "error: 'folder' is a recipe: resnet-jax train folder",
    ("recipes", "digit"): "error: unknown recipe 'digit': did you mean digits",
    ("recipes", "x", "y"): "error: recipes takes one name, not 2",
    ("plan", "--topology", "h200"): "error: the recipe is missing: resnet-jax plan RECIPE",
    ("plan", "digits", "--epochs", "3"): "error: unknown option --epochs: did you mean --duration",
    ("convert", "a", "b", "--modell", "x"): "error: unknown option --modell: did you mean --model",
    ("eval",): "error: the run directory is missing: it comes before the options",
}


@pytest.mark.parametrize("args", COMMAND_LINES)
def test_messages_of_all_commands(args, capsys):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert err.startswith(COMMAND_LINES[args]) and not out


def test_version_and_help_import_no_jax():
    code = (
        "import sys; from train.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'jax', 'flax', 'rich', 'matplotlib'} & set(sys.modules)"
    )
    for args in (("--version",), ("train", "--help"), ("train", "--help-all"), ("eval", "--help")):
        done = subprocess.run(
            [sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_version_names_what_a_result_depends_on():
    done = subprocess.run(
        command("--version"), capture_output=True, text=True, env=environment(), check=True
    )
    first, *rest = done.stdout.splitlines()
    assert first.startswith("resnet-jax ")
    versions = dict(line.split(" ", 1) for line in rest)
    import jax
    import numpy as np

    assert versions["jax"] == jax.__version__ and versions["numpy"] == np.__version__
    assert versions["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
