"""Which files of a folder are images, and a record of those that are not taken."""

import os
from pathlib import Path

from train.data.retry import is_passing
from train.printable import utf8

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".ico"),
)
"""Extensions of files that are read as images, in lower case; files may have either case."""

_FIRST_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # those of data.listing 1

_NOT_DATA = ("@eaDir", "__MACOSX")
"""Folders that a Synology server (thumbnails) or macOS (in zip files) adds."""

_NAMED = 2  # examples of each reason in the message


class Skipped:
    """Counts files and folders that a reader does not take, by reason, with examples of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, reason: str, path: str | Path) -> None:
        """Counts one file or folder."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _NAMED:
            examples.append(str(path))

    def count(self, reason: str) -> int:
        """How many were skipped for a reason."""
        return self._counts.get(reason, 0)

    def update(self, other: "Skipped") -> None:
        """Counts what another record has counted."""
        for reason, count in other._counts.items():
            for path in other._examples[reason]:
                self.add(reason, path)
            self._counts[reason] += count - len(other._examples[reason])

    def reasons(self, root: Path) -> str:
        """Each reason with its count and examples, relative to `root`; "" if nothing is skipped."""
        parts = []
        for reason, count in self._counts.items():
            names = [os.path.relpath(path, root) for path in self._examples[reason]]
            more = ", ..." if count > len(names) else ""
            parts.append(f"{reason}: {count:,} ({', '.join(names)}{more})")
        return utf8("; ".join(parts))

    def describe(self, root: Path) -> str:
        """One line for the start of a run; "" if nothing is skipped."""
        total = sum(self._counts.values())
        start = f"{root}: {total:,} files or folders are not read as images"
        return f"{start}: {self.reasons(root)}" if total else ""


def is_image_name(name: str) -> bool:
    """Whether a file of this name is read as an image: by its extension, and not hidden.

    >>> is_image_name("a.JPG"), is_image_name("._a.jpg"), is_image_name("a.heic")
    (True, False, False)
    """
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def image_files(folder: Path, skipped: Skipped | None = None, *, version: int = 2) -> list[Path]:
    """The image files in a folder and in the folders below it, sorted by path.

    Training, evaluation and prediction list folders with this function, so that they read the same
    files: those with an extension in `IMAGE_SUFFIXES`, through links to files too. Hidden files and
    folders are not read (also macOS's "._photo.jpg", which is no image), nor are links to folders,
    which may form a loop, nor folders that a system adds ("@eaDir", "__MACOSX").

    Args:
      skipped: receives what is not taken.
      version: `data.listing`. 1 reads fewer extensions, and hidden files and folders.

    Raises:
      OSError: a folder cannot be listed for a passing reason, such as a network error.
    """
    skipped = Skipped() if skipped is None else skipped
    if version == 1:
        return _first_image_files(folder, skipped)
    found: list[Path] = []
    folders = [str(folder)]
    while folders:
        entries = _entries(folders.pop(), skipped)
        below = []
        for entry in entries:
            if entry.name in _NOT_DATA:
                skipped.add("system folder", entry.path)
            elif not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            elif reason := _reason_to_skip(entry):
                skipped.add(reason, entry.path)
            else:
                found.append(Path(entry.path))
        folders += reversed(below)
    return sorted(found)


def _first_image_files(folder: Path, skipped: Skipped) -> list[Path]:
    """The image files by the rule of `data.listing` 1."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix.lower() in _FIRST_SUFFIXES:
            found.append(path)
        else:
            skipped.add(f"*{path.suffix.lower()}" if path.suffix else "without an extension", path)
    return found


def subfolders(folder: Path, skipped: Skipped | None = None, *, version: int = 2) -> list[Path]:
    """The folders in a folder, sorted by name, links to folders too.

    Hidden ones are skipped, and so are links to a folder that contains `folder` itself and folders
    that a system adds ("@eaDir", "__MACOSX").

    Args:
      skipped: receives what is no such folder: image files, hidden folders, links.
      version: `data.listing`. 1 skips hidden folders only.

    Raises:
      OSError: the folder cannot be listed.
    """
    skipped = Skipped() if skipped is None else skipped
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    folders = []
    for entry in found:
        if entry.name.startswith("."):
            skipped.add("hidden", entry.path)
        elif not _is(entry, "dir"):
            if is_image_name(entry.name):
                skipped.add("outside of the class folders", entry.path)
            elif entry.is_symlink() and not _is(entry, "file"):
                skipped.add("broken link", entry.path)
        elif entry.name in _NOT_DATA and version > 1:
            skipped.add("system folder", entry.path)
        elif entry.is_symlink() and version > 1 and _contains(entry.path, folder):
            skipped.add("linked folder that contains this one", entry.path)
        else:
            folders.append(Path(entry.path))
    return folders


def _entries(folder: str, skipped: Skipped) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if is_passing(error):
            raise
        skipped.add(f"folder that cannot be listed ({error.strerror})", folder)
        return []


def _reason_to_skip(entry: os.DirEntry[str]) -> str:
    """Why what is no folder is no image file either; "" for an image file."""
    if entry.name.startswith("._"):
        return "macOS metadata (._*)"
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink():
        if _is(entry, "dir"):
            return "linked folder"
        if not _is(entry, "file"):
            return "broken link"
    elif not entry.is_file():
        return "no regular file"
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return ""
    return f"*{suffix}" if suffix else "without an extension"


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    """Whether an entry is, or links to, a "dir" or a "file"; False for links in a circle."""
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError as error:
        if is_passing(error):
            raise
        return False


def _contains(outer: str, inner: Path) -> bool:
    outer, real = os.path.realpath(outer), os.path.realpath(inner)
    return os.path.commonpath([outer, real]) == outer
