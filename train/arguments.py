"""What the commands share in reading their arguments. Nothing here imports JAX."""

from collections.abc import Sequence
from typing import Any

import tyro

from train.config import ConfigError


def parse(command: str, description: str, kind: Any, default: Any, args: Sequence[str]) -> Any:
    """The options of a command as the dataclass `kind`, on top of `default`; exits on a mistake."""
    return tyro.cli(
        kind,
        default=default,
        args=list(args),
        prog=f"resnet-jax {command}",
        description=description,
        config=(tyro.conf.FlagConversionOff,),
    )


def named(args: Sequence[str]) -> set[str]:
    """The names of the options in `args`, in one spelling.

    >>> sorted(named(["--data.mean", "0.5", "--eval.crop-fraction=1", "folder"]))
    ['data.mean', 'eval.crop_fraction']
    """
    flags = [arg[2:].partition("=")[0] for arg in args if arg.startswith("--")]
    return {flag.replace("-", "_") for flag in flags}


def split(args: list[str], what: str) -> tuple[list[str], list[str]]:
    """The positional arguments in front, and the options behind them.

    Raises:
      ConfigError: there is no positional argument (`what` says which), and --help is not asked for.
    """
    cut = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    if not cut and not {"-h", "--help"} & set(args):
        raise ConfigError(f"{what} is missing: it comes first; see resnet-jax --help")
    return args[:cut], args[cut:]
