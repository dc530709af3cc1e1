"""Reading of arguments, shared by all commands. Nothing here imports JAX.

tyro parses the values. The help and the error messages are made here, so that they look the same in
all commands: plain lines of help, and one `ConfigError` for a mistake.
"""

import contextlib
import difflib
import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import tyro

from train.cli.habits import HABITS
from train.cli.options import (
    COMMON,
    PRESET_NAME,
    UNKNOWN,
    Option,
    first_page,
    help_text,
    list_of,
    options,
)
from train.config import ConfigError, RunConfig
from train.config.presets import PRESETS

HELP = ("-h", "--help", "--help-all", "--help_all")


def parse(
    command: str,
    description: str,
    kind: Any,
    default: Any,
    args: Sequence[str],
    *,
    usage: str = "",
    common: Sequence[str] = COMMON,
    accepts: Callable[[str], bool] = lambda name: True,
    has_defaults: bool = True,
) -> Any:
    """Parses the options of a command into the dataclass `kind`, with `default` for the others.

    `--help` prints the command's own options and the `common` ones, `--help-all` prints all of
    them; then the program exits. Underscores and hyphens are the same in option names:
    `--batch_size`, `--batch-size`.

    Args:
      command: as in "resnet-jax COMMAND"; its first word is the command's name.
      usage: shown in the help instead of `command`.
      common: options of `RunConfig` on the first page of help.
      accepts: whether the help lists an option of `RunConfig`, by its name.
      has_defaults: whether the help shows the values of `RunConfig` in `default`.

    Raises:
      ConfigError: an unknown option, or an invalid value.
      SystemExit: after help was printed.
    """
    known = options(kind, default)
    if requested := set(HELP) & set(args):
        shown = [option for option in known if not option.shared or accepts(option.name)]
        if not has_defaults:
            shown = [
                replace(option, default=UNKNOWN) if option.shared else option for option in shown
            ]
        everything = bool(requested & {"--help-all", "--help_all"})
        head = _head(f"usage: resnet-jax {usage or command} [options]", description)
        print(head + _help(_name(command), shown, common, everything))
        raise SystemExit(0)
    _check_no_preset(command, args)
    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written), contextlib.redirect_stdout(written):
            given, unknown = tyro.cli(
                kind,
                default=default,
                args=list(args),
                prog=f"resnet-jax {command}",
                description=description,
                config=(tyro.conf.FlagConversionOff,),
                use_underscores=True,
                return_unknown_args=True,
            )
    except SystemExit as stopped:
        raise _config_error(stopped, written.getvalue(), known, args) from None
    if unknown:
        usable = [option for option in known if not option.shared or accepts(option.name)]
        raise ConfigError(_unknown(unknown, usable, command))
    return given


def _check_no_preset(command: str, args: Sequence[str]) -> None:
    if PRESET_NAME in option_names(args):  # `take_preset` has not taken it
        raise ConfigError(
            f"--{PRESET_NAME}: is an option of train, preview, lr-find and plan, not of "
            f"{_name(command)}"
        )


def take_preset(recipe: RunConfig, args: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """Takes `--augment.preset NAME` out of the arguments, and its values into the recipe.

    Raises:
      ConfigError: there is no such preset.

    >>> take_preset(RunConfig(), ["--augment.preset", "rsb-a1", "--seed", "1"])[1]
    ['--seed', '1']
    """
    preset = next(option for option in options(RunConfig, recipe) if option.name == PRESET_NAME)
    if preset.name not in option_names(args):
        return recipe, list(args)
    words = values(preset, args)
    if len(words) != 1 or words[0] not in PRESETS:
        got = " ".join(map(repr, words)) or "(no value)"
        raise ConfigError(f"--{preset.name} {got}: needs {preset.needs}")
    rest, is_value = list[str](), False
    for arg in args:
        is_preset = _with_underscores(arg.partition("=")[0]) == f"--{preset.name}"
        if not is_preset and not is_value:
            rest.append(arg)
        is_value = is_preset and "=" not in arg
    return replace(recipe, augment=PRESETS[words[0]]), rest


def _head(usage: str, description: str) -> str:
    """The text above the options. A usage line in the description replaces `usage`."""
    paragraphs = description.strip().split("\n\n")
    own = [p for p in paragraphs if p.startswith("usage: ")]
    others = [
        p if "\n " in p or p.startswith(" ") else textwrap.fill(p, 98, break_on_hyphens=False)
        for p in paragraphs
        if p not in own
    ]
    return "\n\n".join([*(own or [usage]), *others, ""])


def _name(command: str) -> str:
    """The command without its arguments: "train" of "train folder"; "bench step" stays."""
    return command if command.startswith("bench") else command.split()[0]


def _help(name: str, shown: list[Option], common: Sequence[str], everything: bool) -> str:
    if everything:
        return help_text(shown)
    page = first_page(shown, common)
    more = f"--help-all lists all {len(shown)} options of {name}."
    return "\n\n".join(
        [f"options [with their defaults]:\n{list_of(page)}", *([more] if shown != page else [])]
    )


def option_names(args: Sequence[str]) -> set[str]:
    """The names of the options in `args`, with underscores.

    >>> sorted(option_names(["--data.mean", "0.5", "--eval.crop-fraction=1", "folder"]))
    ['data.mean', 'eval.crop_fraction']
    """
    flags = [arg[2:].partition("=")[0] for arg in args if arg.startswith("--")]
    return {flag.replace("-", "_") for flag in flags}


def _config_error(
    stopped: SystemExit, written: str, known: list[Option], args: Sequence[str]
) -> BaseException:
    """tyro's error as a `ConfigError`; an exit without an error is returned as it is.

    If one of our own checks raised the error, its message is used: it is the clearest.
    """
    cause: BaseException | None = stopped
    while cause is not None:
        if isinstance(cause, ConfigError):
            return cause
        cause = cause.__context__
    if stopped.code != 2:
        print(written, end="")
        return stopped
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", written).split())
    by_flag = {f"--{option.name}": option for option in known}
    for flag in re.findall(r"--[\w.-]+", text):
        option = by_flag.get(flag) or by_flag.get(flag.replace("-", "_").replace("__", "--", 1))
        if option:
            words = values(option, args)
            got = " ".join(map(repr, words)) if words else "(no value)"
            return ConfigError(f"--{option.name} {got}: needs {option.needs}")
    return ConfigError(text.partition(" For full helptext")[0])


def values(option: Option, args: Sequence[str]) -> list[str]:
    """The words after an option; if it is given several times, after the last."""
    found: list[str] = []
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if _with_underscores(flag) != f"--{option.name}":
            continue
        stop = next((j for j in range(i + 1, len(args)) if args[j].startswith("--")), len(args))
        found = [value] if equals else list(args[i + 1 : stop])
    return found


def _with_underscores(flag: str) -> str:
    """A flag with underscores: "--batch_size" for "--batch-size"."""
    return "--" + flag[2:].replace("-", "_") if flag.startswith("--") else flag


def _unknown(unknown: Sequence[str], known: list[Option], command: str) -> str:
    """The message about words that belong to no option."""
    first, rest = unknown[0], unknown[1:]
    name = _name(command)
    if not first.startswith("-"):
        return (
            f"{first!r} is not the value of an option, and `resnet-jax {command}` has no such "
            f"argument: names come before the options (resnet-jax {name} --help)"
        )
    flag, equals, value = first.partition("=")
    if not equals:
        flags = (i for i, word in enumerate(rest) if re.match("-[^0-9.]", word))
        end = next(flags, len(rest))
        value = " ".join(rest[:end])
    found = suggestions(flag, value, [option.name for option in known])
    hint = f"did you mean {found}? " if found.startswith("--") else f"{found}; " if found else ""
    return f"unknown option {flag}: {hint}`resnet-jax {name} --help-all` lists all options"


def suggestions(flag: str, value: str, names: Sequence[str]) -> str:
    """What to write instead of an unknown flag and its value; "": no option is similar.

    The result is one or more options, which start with "--", or a sentence that explains why there
    is no such option.

    >>> suggestions("--epochs", "5", ["duration"])
    '--duration 5ep'
    >>> suggestions("--lr", "0.2", ["optim.lr", "optim.lr_batch"])
    '--optim.lr 0.2'
    """
    word = flag.lstrip("-").lower().replace("-", "_")
    if word in HABITS:
        target = HABITS[word]
        option = target.partition(" ")[0].removeprefix("--")
        if not target.startswith("--") or option in names:
            if option == "data.image_size":  # other programs accept "3 64 64" or "64 64"
                value = value.rpartition(" ")[2]
            return target.replace("VALUE", value or "VALUE")
    leaf = [name for name in names if name.rpartition(".")[2] == word]
    near = leaf or difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if not near:
        leaves = {name.rpartition(".")[2]: name for name in reversed(names)}
        near = [leaves[w] for w in difflib.get_close_matches(word, leaves, n=3, cutoff=0.7)]
    return ", ".join(f"--{name} {value}".rstrip() for name in near)


def split(args: list[str], what: str) -> tuple[list[str], list[str]]:
    """Splits arguments into the positional ones, which come first, and the options.

    Args:
      what: what the first positional argument is, for the message.

    Raises:
      ConfigError: there is no positional argument, and no --help.
    """
    cut = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    if not cut and not set(HELP) & set(args):
        raise ConfigError(f"{what} is missing: it comes before the options; see resnet-jax --help")
    return args[:cut], args[cut:]
