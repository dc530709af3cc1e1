"""The command line: `resnet-jax COMMAND`, or `python -m train COMMAND`."""

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.zoo import ZOO, list_models
from train.cli.arguments import HELP, named, parse, split
from train.cli.convert import convert
from train.cli.predict import predict
from train.cli.usage import (
    EVAL_COMMON,
    EVAL_HELP,
    PLAN_HELP,
    TRAIN_HELP,
    USAGE,
)
from train.config import ConfigError, RunConfig, RunError
from train.config.effects import accepted_by_eval, check_applicable, check_effects
from train.console import accept_every_character, lost_output, safe_output
from train.paths import expand
from train.printable import utf8
from train.runtime import set_xla_flags

Config = Annotated[RunConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class TrainArgs:
    """Options of `train`."""

    config: Config
    workdir: Path
    """Where the run is kept; the same command again resumes it, or `--workdir DIR` alone."""
    extend: Annotated[int, tyro.conf.UseCounterAction] = 0
    """Goes on with the run in the workdir for another --duration, or with other eval.*,
    checkpoint.* or log_every."""


@dataclass(frozen=True)
class EvalArgs:
    """Options of `eval`."""

    config: Config
    checkpoint: str = "best"
    """best, last, or a step."""


def train(args: list[str]) -> None:
    """Trains a recipe, or resumes it."""
    from train.cli.choose_recipe import choose, find_stored
    from train.recipes import all_recipes, get_recipe

    warning = ""
    if stored := find_stored(args):
        (recipe, workdir), options, note = stored, args, ""
        name = recipe.recipe
    else:
        name, options, note, warning = choose(args)
        recipe, workdir = get_recipe(name), Path("runs") / name
    start = TrainArgs(recipe, workdir)
    about = TRAIN_HELP.format(recipes=", ".join(all_recipes()), name=name)
    usage = "train [RECIPE]"
    given = parse(f"train {name}", about, TrainArgs, start, options, usage=usage)
    warnings = [*filter(None, [warning]), *check_effects(given.config, recipe)]
    from train.data.workers import kill_workers
    from train.distributed.signals import StopSignal
    from train.runtime import set_malloc

    if note:
        print(note, flush=True)
    _tell(warnings)
    set_malloc()
    with StopSignal(kill_workers).install() as stop:
        from train.run.fit import fit  # takes a second, in which an interrupt would crash JAX

        extend = bool(given.extend)
        fit(given.config, given.workdir, stop=stop, extend=extend, given=named(options))


def _run_dir(names: list[str]) -> tuple[Path, RunConfig]:
    from train.recipes import get_recipe
    from train.run.directory import read_config

    if not names:  # --help alone
        return Path(), get_recipe("digits")
    if names[0] in ZOO:
        raise ConfigError(
            f"{names[0]!r} is a network without weights: name the directory of a run instead"
        )
    workdir = expand(names[0])
    return workdir, read_config(workdir)


def _tell(warnings: list[str]) -> None:
    if warnings:
        from train.console import warn

        for warning in warnings:
            warn(warning)


def evaluate(args: list[str]) -> None:
    """Evaluates a checkpoint of a run; the last line is one JSON object."""
    names, options = split(args, "the run directory")
    workdir, config = _run_dir(names)
    shown: Any = {
        "common": EVAL_COMMON,
        "accepts": accepted_by_eval,
        "has_defaults": bool(names),
    }
    given = parse("eval DIR", EVAL_HELP, EvalArgs, EvalArgs(config), options, **shown)
    _tell(check_applicable("eval", config, given.config, accepted_by_eval))
    from train.inference.inference import evaluate_run
    from train.report.metrics_file import to_line
    from train.run.start_screen import accelerator_warnings

    _tell(accelerator_warnings())
    print(to_line(evaluate_run(given.config, workdir, given.checkpoint)), end="")


def plan_run(args: list[str]) -> None:
    """Compiles a recipe's training step for other hardware and reports on it."""
    from train.cli.choose_recipe import take_recipe
    from train.plan.planner import PlanArgs, plan
    from train.plan.report import render
    from train.recipes import get_recipe

    name, options = take_recipe(args)
    if name is None and not set(HELP) & set(args):
        raise ConfigError(
            "the recipe is missing: resnet-jax plan RECIPE --topology CHIPS; "
            "`resnet-jax recipes` lists them"
        )
    recipe = get_recipe(name or "imagenet-resnet50")
    start = PlanArgs(recipe)
    usage = "plan RECIPE --topology CHIPS"
    given = parse(f"plan {name}", PLAN_HELP, PlanArgs, start, options, usage=usage)
    _tell(check_effects(given.config, recipe))
    print(render(plan(given)))


def bench(args: list[str]) -> None:
    """Measures speed; only a checkout has the benchmarks."""
    root = Path(__file__).parents[1]
    if not (root / "benchmarks" / "cli.py").is_file():
        raise ConfigError(
            "bench: the benchmarks are not part of the installed package; they need a checkout of "
            "the source. Get one (git clone, or unpack the source archive), then in its folder: "
            "pip install -e . && resnet-jax bench"
        )
    if str(root) not in sys.path:
        sys.path.append(str(root))  # an editable install knows the packages alone
    from benchmarks.cli import bench

    bench(args)


def models(args: list[str]) -> None:
    """The networks that match a pattern, or one of them stage by stage."""
    from train.cli.tables import near_models, print_model, print_models

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
    if set(HELP) & set(args):
        print("usage: resnet-jax recipes")
        return
    if args:
        raise ConfigError(f"recipes takes no argument, not {args[0]!r}; it lists all recipes")
    from train.cli.tables import print_recipes

    print_recipes()


def _print_version() -> None:
    """Of this program, and of what its results depend on; imports none of it."""
    from train.run.provenance import code_version, versions

    found = versions()
    own, python = found.pop("resnet-jax"), found.pop("python")
    commit = code_version()
    print(f"resnet-jax {own}" + (f" (commit {commit})" if commit else ""))
    print(f"python {python}")
    for name, version in found.items():
        print(f"{name} {version or 'not installed'}")


def _unknown_command(name: str) -> ConfigError:
    from train.recipes import all_recipes

    if name in all_recipes():
        return ConfigError(f"{name!r} is a recipe: resnet-jax train {name}")
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return ConfigError(f"unknown command {name!r}: {hint}choose from {', '.join(COMMANDS)}")


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
    with safe_output():
        accept_every_character()
        code = _run(args)
        # The stdout of `train` is progress. That of the others is what they were called for.
        if code == 0 and args[:1] != ["train"] and (why := lost_output()):
            print(f"error: the output could not be written: {why}", file=sys.stderr)
            return 1
        return code


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    sys.unraisablehook = _without_echoes
    try:
        if args[0] in ("-V", "--version", "version"):
            _print_version()
            return 0
        if args[0] not in COMMANDS:
            raise _unknown_command(args[0])
        if args[0] != "bench":  # which runs others as they come, too
            set_xla_flags()
        COMMANDS[args[0]](args[1:])
    except ConfigError as error:
        print(f"error: {utf8(error)}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {utf8(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
