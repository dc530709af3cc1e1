"""The command line: `resnet-jax COMMAND`, or `python -m train COMMAND`."""

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.zoo import ZOO, list_models
from train.arguments import named, parse, split
from train.config import ConfigError, RunConfig, RunError
from train.config_json import differences
from train.names import accept_every_character, utf8
from train.weights import published
from train.weights_cli import convert
from train.weights_cli import predict as predict_by_file
from train.xla_flags import set_xla_flags

USAGE = """\
usage: resnet-jax COMMAND ...

  train [RECIPE] [--workdir DIR] [--optim.lr 0.2 ...]   train, or resume the run in DIR
                                                        (RECIPE: digits; DIR: runs/RECIPE)
  eval DIR [--checkpoint best|last|STEP]                evaluate a run; prints one JSON object
  predict DIR IMAGE... [--csv FILE]                     top-5 classes of each image, by a run,
  predict NAME IMAGE... --weights FILE                  by a network and a file of its weights,
  predict NAME.TAG IMAGE...                             or by those that timm publishes
  convert SRC DST [--model NAME]                        weights of a file or a run to another file
  plan RECIPE --topology v5e:16x16 [...]                the step compiled for hardware that is not
                                                        here: memory, time, what binds
  bench COMMAND ...                                     measure: steps, input, memory, beside others
  models [PATTERN]                                      the networks; one name: stage by stage
  recipes                                               the recipes

`resnet-jax COMMAND --help` lists a command's options.
"""

PREDICT_USAGE = """\
usage: resnet-jax predict DIR IMAGE... [options]                    with the weights of a run
       resnet-jax predict NAME IMAGE... --weights FILE [options]    with a file of weights
       resnet-jax predict NAME.TAG IMAGE... [options]               with timm's

`resnet-jax predict DIR --help` and `resnet-jax predict NAME --help` list the options.
"""

PLAN_USAGE = """\
usage: resnet-jax plan RECIPE --topology CHIPS [options]

  resnet-jax plan imagenet-resnet50 --topology v5e:2x2 --batch_size 512

compiles the recipe's training step for hardware that is not here, and says what it needs and what
binds. CHIPS: v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2, ... or a100-40, a100-80, h100, h200, h200:8.

`resnet-jax plan RECIPE --help` lists the options, and `resnet-jax recipes` the recipes.
"""

Config = Annotated[RunConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class TrainArgs:
    """Options of `train`."""

    config: Config
    workdir: Path
    """Where the run is kept; the same command again resumes it."""


@dataclass(frozen=True)
class EvalArgs:
    """Options of `eval`."""

    config: Config
    checkpoint: str = "best"
    """best, last, or a step."""


@dataclass(frozen=True)
class PredictArgs:
    """Options of `predict`."""

    config: Config
    checkpoint: str = "best"
    """best, last, or a step."""
    csv: Path | None = None
    """Also write image, rank, class, probability, error to this file (UTF-8)."""


def train(args: list[str]) -> None:
    """Trains a recipe, or resumes it."""
    from train.recipes import get_recipe

    name = args.pop(0) if args and not args[0].startswith("-") else "digits"
    recipe = get_recipe(name)
    start = TrainArgs(recipe, Path("runs") / name)
    given = parse(f"train {name}", f"Train the recipe {name}.", TrainArgs, start, args)
    from train.memory import set_malloc
    from train.stop import Stop

    set_malloc()
    with Stop().listening() as stop:
        from train.loop import fit  # takes a second, in which an interrupt would crash JAX

        fit(given.config, given.workdir, stop=stop, given=named(args))


def _run_dir(names: list[str]) -> tuple[Path, RunConfig]:
    from train.recipes import get_recipe
    from train.run import read_config

    if not names:  # --help alone
        return Path(), get_recipe("digits")
    if names[0] in ZOO:
        raise ConfigError(
            f"{names[0]!r} is a network without weights: name the directory of a run instead"
        )
    return Path(names[0]), read_config(Path(names[0]))


# What eval and predict may do differently from the training; the rest would mean nothing.
_APPLICABLE = ("data.", "eval.", "precision")


def _check_applicable(command: str, trained: RunConfig, given: RunConfig) -> None:
    for line in differences(trained, given):
        if not line.startswith(_APPLICABLE):
            raise ConfigError(
                f"{command} cannot change {line}; it can change data.*, eval.*, precision"
            )


def evaluate(args: list[str]) -> None:
    """Evaluates a checkpoint of a run; the last line is one JSON object."""
    names, options = split(args, "the run directory")
    workdir, config = _run_dir(names)
    given = parse("eval DIR", "Evaluate a run.", EvalArgs, EvalArgs(config), options)
    _check_applicable("eval", config, given.config)
    from train.inference import evaluate_run
    from train.metrics import to_line

    print(to_line(evaluate_run(given.config, workdir, given.checkpoint)), end="")


def predict(args: list[str]) -> None:
    """The five most probable classes of each image, or of all images in a folder."""
    names, options = split(args, "the run directory, or the network,")
    if not names:
        print(PREDICT_USAGE, end="")
        return None
    if names[0] in ZOO or published(names[0]):
        return predict_by_file(names, options)
    if not Path(names[0]).exists():
        near = near_models(names[0].partition(".")[0])
        hint = f"; did you mean the network {', '.join(near)}?" if near else ""
        raise ConfigError(f"{names[0]!r} is neither a run directory nor a network{hint}")
    workdir, config = _run_dir(names)
    start = PredictArgs(config)
    given = parse("predict DIR IMAGE...", "Classify images.", PredictArgs, start, options)
    _check_applicable("predict", config, given.config)
    if len(names) < 2:
        raise ConfigError("no image given: resnet-jax predict DIR IMAGE...")
    from train import inference
    from train.predictions import image_files, show

    files = image_files(names[1:])
    show(inference.predict(given.config, workdir, given.checkpoint, files), given.csv)


def plan_run(args: list[str]) -> None:
    """Compiles a recipe's training step for other hardware and reports on it."""
    from train.plan import PlanArgs, plan
    from train.plan_report import render
    from train.recipes import get_recipe

    names, options = split(args, "the recipe (`resnet-jax recipes` lists them)")
    if not names:  # --help alone
        print(PLAN_USAGE, end="")
        return
    name = names[0]
    start = PlanArgs(get_recipe(name))
    given = parse(f"plan {name}", f"Plan a run of the recipe {name}.", PlanArgs, start, options)
    print(render(plan(given)))


def bench(args: list[str]) -> None:
    """Measures speed; only a checkout has the benchmarks."""
    root = Path(__file__).parents[1]
    if not (root / "benchmarks" / "cli.py").is_file():
        raise ConfigError(
            "bench: the benchmarks are not installed with the package; run it in a checkout "
            "(pip install -e .)"
        )
    if str(root) not in sys.path:
        sys.path.append(str(root))  # an editable install knows the packages alone
    from benchmarks.cli import bench

    bench(args)


def near_models(name: str) -> list[str]:
    """Up to three networks whose names are like a name or pattern.

    >>> near_models("resnet5O")[0]
    'resnet50'
    """
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    known = {re.sub(r"[^a-z0-9]", "", model): model for model in reversed(ZOO)}
    begins = [model for key, model in known.items() if plain and key.startswith(plain)]
    close = difflib.get_close_matches(plain, known, n=3, cutoff=0.6)
    return sorted(begins, key=len)[:3] or [known[key] for key in close]


def models(args: list[str]) -> None:
    """The networks that match a pattern, or one of them stage by stage."""
    from train.tables import print_model, print_models

    if len(args) > 1:
        raise ConfigError(f"models takes one pattern, not {len(args)}: quote it ('resnet50*')")
    pattern = args[0] if args else "*"
    if pattern in ("-h", "--help"):
        print("usage: resnet-jax models [PATTERN | NAME]")
    elif pattern in ZOO:
        print_model(pattern)
    elif names := list_models(pattern):
        print_models(names)
    else:
        near = near_models(pattern)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ConfigError(f"no model matches {pattern!r}; {hint}`resnet-jax models` lists all")


def recipes(args: list[str]) -> None:
    """The recipes and what to expect of them."""
    from train.tables import print_recipes

    print_recipes()


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "convert": convert,
    "plan": plan_run,
    "bench": bench,
    "models": models,
    "recipes": recipes,
}


def _without_echoes(unraisable: Any) -> None:
    """An unraisablehook: on a full disk TensorStore reports every array it dropped, one by one."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns 0 done, 2 bad input or config, 1 anything else."""
    args = list(sys.argv[1:] if argv is None else argv)
    accept_every_character()
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    sys.unraisablehook = _without_echoes
    try:
        if args[0] not in COMMANDS:
            raise ConfigError(f"unknown command {args[0]!r}: choose from {', '.join(COMMANDS)}")
        if args[0] != "bench":  # which runs others as they come, too
            set_xla_flags()
        COMMANDS[args[0]](args[1:])
    except ConfigError as error:
        print(f"error: {utf8(error)}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {utf8(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has seen enough
        sys.stdout = None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
