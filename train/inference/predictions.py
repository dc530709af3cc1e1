"""The files that `predict` reads, and its output: a table on the terminal, and CSV."""

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
    from train.inference.predict import Answer


def image_files(names: Sequence[str]) -> list[Path]:
    """The given files; in place of a folder, the images in it that training would read, sorted.

    Other files in a folder are counted in a warning. A folder without images is kept in the list.

    Raises:
      ConfigError: `~` in a path and an unknown home directory; a folder that cannot be listed.
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
    """Prints `count` answers as a table, and writes each answer to a CSV file at once.

    A file that cannot be read is reported on stderr and in its row.

    Raises:
      ConfigError: `table` cannot be written; or, after all answers are printed, some images could
        not be read.
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
    """A function that writes an answer: image, rank, class, probability and error, in UTF-8.

    There is one row for each prediction. A file that cannot be read has one row, with the error. At
    the end, the number of rows is printed on stderr.
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
            file.flush()  # after an interrupt, all earlier answers are in the file
        except OSError as error:
            with contextlib.suppress(OSError):
                file.close()  # tries to write the rest again, and fails again
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
    """Prints images and their most probable classes, one image a row."""
    count = max(len(answer.predictions) for answer in answers)
    table = Table("image", *(f"top-{k}" for k in range(1, 1 + count)))
    table.columns[0].overflow = "fold"
    for path, predictions, error in answers:
        best = [f"{one_line(each.name)} {each.probability:.1%}" for each in predictions]
        if error:
            best = ["not read"]
        table.add_row(*map(Text, (one_line(path), *best)))  # a class may be called "[red]"
    table_console().print(table)
