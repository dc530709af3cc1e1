"""`predict`: which files it reads, and its answers on the terminal and as CSV."""

import contextlib
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from train.config import ConfigError
from train.console import table_console, warn
from train.data.sources import listing
from train.data.sources.listing import Skipped
from train.paths import expand
from train.printable import csv_cell, csv_path, one_line, utf8

if TYPE_CHECKING:
    from train.inference.inference import Answer


def image_files(names: Sequence[str]) -> list[Path]:
    """The files that a person named, and for a folder the images that training would read, sorted.

    What else is in a folder is counted in a line on stderr. A folder without images stays in the
    list.

    Raises:
      ConfigError: `~`, where no home directory is known; a folder cannot be listed.
    """
    files: list[Path] = []
    for path in map(expand, names):
        if not path.is_dir():
            files.append(path)
            continue
        skipped = Skipped()
        try:
            files += listing.image_files(path, skipped) or [path]
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        if others := skipped.describe(path):
            warn(others)
    return files


def show(answers: "Iterable[Answer]", count: int, table: Path | None) -> None:
    """Prints `count` answers as a table, and writes each to a CSV file as it comes.

    A file that cannot be read is reported on stderr, and has a row that says why.

    Raises:
      ConfigError: `table` cannot be written; or, when all is printed, some file could not be read.
    """
    shown, failed = [], 0
    with _csv(table) as write:
        for answer in answers:
            write(answer)
            shown.append(answer)
            if answer.error:
                failed += 1
                reason = f"{one_line(answer.path)}: {utf8(answer.error)}"
                if count == 1:
                    raise ConfigError(reason)
                print(f"error: {reason}", file=sys.stderr)
    if failed < len(shown):
        print_answers(shown)
    if failed:
        raise ConfigError(f"{failed} of {count} images could not be read")


@contextlib.contextmanager
def _csv(target: Path | None) -> Iterator[Any]:
    """A function that writes an answer: image, rank, class, probability, error in UTF-8.

    One row for each guess; a file that cannot be read has one row, with an error alone. A line on
    stderr says at the end how many rows were written.
    """
    if target is None:
        yield lambda answer: None
        return
    try:
        file = expand(target).open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}") from None
    writer = csv.writer(file)
    count = 0

    def put(rows: Sequence[Sequence[Any]]) -> None:
        try:
            writer.writerows(rows)
            file.flush()  # what was predicted outlives an interrupt
        except OSError as error:
            with contextlib.suppress(OSError):
                file.close()  # which writes what is left once more, and fails once more
            raise ConfigError(f"{target}: {error.strerror}") from None

    def write(answer: "Answer") -> None:
        nonlocal count
        image = csv_path(answer.path)
        rows = [
            [image, rank, csv_cell(name), f"{p:.6f}", ""]
            for rank, (name, p) in enumerate(answer.predictions, start=1)
        ] or [[image, "", "", "", csv_cell(answer.error)]]
        put(rows)
        count += len(rows)

    with file:
        put([["image", "rank", "class", "probability", "error"]])
        yield write
    print(f"wrote {count:,} rows to {target}", file=sys.stderr)


def print_answers(answers: "Sequence[Answer]") -> None:
    """Images and their most probable classes, one image a row."""
    count = max(len(answer.predictions) for answer in answers)
    table = Table("image", *(f"top-{k}" for k in range(1, 1 + count)))
    table.columns[0].overflow = "fold"
    for path, predictions, error in answers:
        best = [f"{one_line(guess.name)} {guess.probability:.1%}" for guess in predictions]
        if error:
            best = ["not read"]
        table.add_row(*map(Text, (one_line(path), *best)))  # a class may be called "[red]"
    table_console().print(table)
