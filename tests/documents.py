"""The README and the pages of the site: their code blocks, commands and links."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.runs import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:resnet-jax (?:-|\w+ )|python -m )[^`]*)`")  # a name alone is no command
_SHELL_WORDS = (
    "export ",
    "for ",
    "done",
    "wait",
    "#",
    "TINY=",
    "--ema_decay",
    "--checkpoint.every",
)
"""The beginnings of lines of shell that are not a command."""


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in one of the languages; "" is a block without one."""
    found = _BLOCK.finditer(page.read_text("utf-8"))
    return [block[3] for block in found if block[2] in languages]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _BLOCK.sub("", page.read_text("utf-8"))


def commands(page: Path) -> Iterator[str]:
    """Every command of a page, one line each: of its blocks of shell, and of its inline code.

    A line `a && b` is two commands. A block of another language than bash is no shell; blocks of
    output are of the language `text`.
    """
    for block in blocks(page, "", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.strip().startswith(_SHELL_WORDS):
                yield from (_plain(part) for part in line.split(" && "))
    for code in _INLINE.findall(prose(page)):
        yield _plain(code.replace("\\|", "|"))


def _plain(command: str) -> str:
    """On one line, with single spaces, without a comment, and without what a shell does with it."""
    return " ".join(command.split(" # ")[0].removesuffix("&&").removesuffix(" &").split())


def words(command: str, **variables: str) -> list[str]:
    """The words of a command as a shell makes them: variables and patterns of files expanded."""
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    expanded = []
    for word in shlex.split(command):
        files = sorted(map(str, Path().glob(word))) if "*" in word else []
        expanded += files or [word]
    return expanded
