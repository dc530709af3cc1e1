"""The command line: `resnet-jax COMMAND`, or `python -m train COMMAND`."""

import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from train.cli.bench import bench
from train.cli.convert import convert
from train.cli.evaluate import evaluate
from train.cli.lr_find import lr_find
from train.cli.models import models
from train.cli.plan import plan
from train.cli.predict import predict
from train.cli.preview import preview
from train.cli.recipes import recipes
from train.cli.train import train
from train.cli.usage import USAGE
from train.cli.version import print_version
from train.config import ConfigError, RunError
from train.console import escape_unencodable, lost_output, safe_output
from train.printable import utf8
from train.recipes import all_recipes
from train.runtime import set_xla_flags

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "convert": convert,
    "lr-find": lr_find,
    "preview": preview,
    "plan": plan,
    "bench": bench,
    "models": models,
    "recipes": recipes,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit code: 0 done, 2 bad input or config, 1 anything else."""
    args = list(sys.argv[1:] if argv is None else argv)
    with safe_output():
        escape_unencodable()
        code = _run(args)
        # The stdout of `train` is progress only; that of the other commands is their result.
        if code == 0 and args[:1] != ["train"] and (why := lost_output()):
            print(f"error: the output could not be written: {why}", file=sys.stderr)
            return 1
        return code


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    sys.unraisablehook = _skip_closed_loops
    try:
        if args[0] in ("-V", "--version", "version"):
            print_version()
            return 0
        if args[0] not in COMMANDS:
            raise _unknown_command(args[0])
        if args[0] != "bench":  # which also runs other systems, with their default flags
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


def _unknown_command(name: str) -> ConfigError:
    if name in all_recipes():
        return ConfigError(f"{name!r} is a recipe: resnet-jax train {name}")
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return ConfigError(f"unknown command {name!r}: {hint}choose from {', '.join(COMMANDS)}")


def _skip_closed_loops(unraisable: Any) -> None:
    """An unraisablehook. On a full disk, TensorStore reports "Event loop is closed" once for each
    array that it could not write; the error of the first one is enough.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    sys.exit(main())
