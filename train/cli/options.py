"""The options of a command, from the fields of its dataclass, and the text of their help.

Nothing here imports JAX.
"""

import dataclasses
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import tyro

from resnet_jax.spec import ResNetSpec
from train.config import AugmentConfig, ModelConfig, RunConfig, field_docs
from train.config.presets import PRESETS

COMMON = (
    *("data.dir", "data.name", "data.image_size", "model.name", "init.weights", "duration"),
    *("batch_size", "optim.lr", "optim.weight_decay", "precision", "seed"),
)
"""Options of `RunConfig` on the first page of help, in this order."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command line, `--name`."""

    name: str
    kind: Any
    """Its type, without annotations."""
    doc: str
    default: Any
    shared: bool
    """Whether it is an option of `RunConfig`, not of the command only."""

    @property
    def group(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def takes(self) -> str:
        """The placeholder of its value in the help: "INT", "sgd|adamw", "FLOAT ..."."""
        return "|".join(dict.fromkeys(_placeholder(kind) for kind in _members(self.kind)))

    @property
    def needs(self) -> str:
        """The values that it accepts, in words: "an integer", "sgd or adamw"."""
        members = _members(self.kind)
        if self.name.startswith("model."):  # None means unset there, and "none" may be a choice
            members = [kind for kind in members if kind is not type(None)]
        return " or ".join(dict.fromkeys(map(_words, members)))


PRESET_NAME = "augment.preset"
_PRESET = Option(
    PRESET_NAME,
    Literal[tuple(PRESETS)],
    "Start from the augment.* of a published pipeline, instead of those of the recipe. Other "
    "augment.* options change it.",
    "",
    shared=True,
)
"""No field of a config: see `train/config/presets.py`."""


def _members(kind: Any) -> list[Any]:
    """The members of a union, None last; for any other type, the type itself."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    members = list(typing.get_args(kind)) if union else [kind]
    return sorted(members, key=lambda member: member is type(None))


class Flag:
    """Type of an option without a value."""


UNKNOWN: Any = object()
"""In place of a default that depends on a run which is not named: the help shows no default."""


def _placeholder(kind: Any) -> str:
    if kind is Flag:
        return ""
    if kind is type(None):
        return "None"
    if kind is bool:
        return "True|False"
    match typing.get_origin(kind), typing.get_args(kind):
        case origin, choices if origin is Literal:
            return "|".join(map(str, choices))
        case origin, (item, *rest) if origin is tuple:
            if Ellipsis in rest:
                return f"{_placeholder(item)} ..."
            return " ".join([_placeholder(item)] * (1 + len(rest)))
    return str(getattr(kind, "__name__", kind)).replace("str", "text").upper()


def _words(kind: Any) -> str:
    simple = {int: "an integer", float: "a number", str: "a text", bool: "True or False"}
    if kind is type(None):
        return "None"
    match typing.get_origin(kind), typing.get_args(kind):
        case origin, choices if origin is Literal:
            *others, last = map(str, choices)
            return f"{', '.join(others)} or {last}" if others else last
        case origin, (item, *rest) if origin is tuple:
            count = "one or more" if Ellipsis in rest else str(1 + len(rest))
            of = {int: "integers", float: "numbers", str: "texts"}
            return f"{count} {of.get(item, f'of {_words(item)}')}"
    return simple.get(kind, "a path")


def options(kind: type, default: Any, *, prefix: str = "", shared: bool = False) -> list[Option]:
    """Every option of a dataclass of arguments, in the order of its fields.

    Args:
      kind: the dataclass. A field that is a dataclass is a group of options; the options of a
        `RunConfig` have no group's name in front.
      default: an instance with the defaults.
    """
    found = []
    hints = typing.get_type_hints(kind, include_extras=True)
    docs = field_docs(ResNetSpec) if kind is ModelConfig else {}
    docs |= field_docs(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if kind is ModelConfig:  # the name before the fields that change it
        names.sort(key=lambda name: name != "name")
    for name in names:
        hint, value = hints[name], getattr(default, name)
        extras = getattr(hint, "__metadata__", ())
        if tyro.conf.Suppress in extras:
            continue
        hint = typing.get_args(hint)[0] if extras else hint
        hint = Flag if tyro.conf.UseCounterAction in extras else hint
        if isinstance(value, RunConfig):
            found += options(RunConfig, value, shared=True)
        elif dataclasses.is_dataclass(value):
            found += options(type(value), value, prefix=f"{prefix}{name}.", shared=shared)
        else:
            doc = " ".join(docs.get(name, "").split())
            found.append(Option(prefix + name, hint, doc, value, shared))
    if kind is AugmentConfig:
        found.append(_PRESET)
    return found


def first_page(found: Iterable[Option], common: Sequence[str]) -> list[Option]:
    """The command's own options except flags, then the `common` options of `RunConfig`."""
    by_name = {option.name: option for option in found}
    own = [option for option in by_name.values() if not option.shared and option.kind is not Flag]
    return own + [by_name[name] for name in common if name in by_name]


def help_text(found: Iterable[Option]) -> str:
    """Options by group, each with its type, its help text and its default."""
    groups: dict[str, list[Option]] = {}
    for option in found:
        groups.setdefault(option.group, []).append(option)
    return "\n\n".join(
        f"{group} options:\n".lstrip() + list_of(members) for group, members in groups.items()
    )


def list_of(found: Iterable[Option]) -> str:
    """Options in the order given, one or more lines each."""
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 100)
    lines = []
    for option in found:
        head = f"  --{option.name} {option.takes}".rstrip()
        text = f"{option.doc} [{_shown(option.default)}]"
        text = option.doc if option.kind is Flag or option.default is UNKNOWN else text
        if len(head) <= 28:
            head = head.ljust(30)
        else:
            lines.append(head)
            head = " " * 30
        wrapped = textwrap.wrap(text, width - 30, break_long_words=False, break_on_hyphens=False)
        lines += [head + wrapped[0], *(" " * 30 + line for line in wrapped[1:])]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A default as a user would type it."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "''" if value == "" else str(value)
