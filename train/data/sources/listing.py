"""Lists the image files of a folder, and records the files and folders that are skipped."""

import os
from pathlib import Path

from train.data.retry import is_temporary
from train.printable import utf8

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".ico"),
)
"""Extensions of image files, in lower case; the case of a file's extension does not matter."""

_FIRST_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # of data.listing 1

_SYSTEM_FOLDERS = ("@eaDir", "__MACOSX")
"""Folders that Synology servers (thumbnails) and macOS (in zip files) add."""

_EXAMPLES = 2  # number of examples of each reason in the message


class Skipped:
    """Counts skipped files and folders by reason, with examples of each reason."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, reason: str, path: str | Path) -> None:
        """Counts one file or folder."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(str(path))

    def count(self, reason: str) -> int:
        """Number of files and folders that were skipped for a reason."""
        return self._counts.get(reason, 0)

    def update(self, other: "Skipped") -> None:
        """Adds the counts and examples of another record."""
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
    """Whether a file is read as an image: its name has an image extension and no leading dot.

    >>> is_image_name("a.JPG"), is_image_name("._a.jpg"), is_image_name("a.heic")
    (True, False, False)
    """
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def image_files(folder: Path, skipped: Skipped | None = None, *, version: int = 2) -> list[Path]:
    """The image files in a folder and its subfolders, sorted by path.

    Training, evaluation and prediction all use this function, so they read the same files: those
    with an extension in `IMAGE_SUFFIXES`, and links to such files. These are skipped: hidden files
    and folders (including macOS's "._photo.jpg", which is not an image), links to folders, which
    may form a loop, and folders that a system adds ("@eaDir", "__MACOSX").

    Args:
      skipped: receives the skipped files and folders.
      version: `data.listing`. Version 1 has fewer extensions, and reads hidden files and folders.

    Raises:
      OSError: a folder cannot be listed temporarily, such as after a network error.
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
            if entry.name in _SYSTEM_FOLDERS:
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
    """`image_files` for `data.listing` 1."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix.lower() in _FIRST_SUFFIXES:
            found.append(path)
        else:
            skipped.add(f"*{path.suffix.lower()}" if path.suffix else "without an extension", path)
    return found


def subfolders(folder: Path, skipped: Skipped | None = None, *, version: int = 2) -> list[Path]:
    """The folders in a folder, including links to folders, sorted by name.

    Skipped are hidden folders, links to a folder that contains `folder` itself, and folders that a
    system adds ("@eaDir", "__MACOSX").

    Args:
      skipped: receives the skipped folders, and image files and broken links in the folder.
      version: `data.listing`. Version 1 skips hidden folders only.

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
        elif entry.name in _SYSTEM_FOLDERS and version > 1:
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
        if is_temporary(error):
            raise
        skipped.add(f"folder that cannot be listed ({error.strerror})", folder)
        return []


def _reason_to_skip(entry: os.DirEntry[str]) -> str:
    """The reason why an entry that is not a folder is skipped; "" for an image file."""
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
        return "not a regular file"
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return ""
    return f"*{suffix}" if suffix else "without an extension"


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    """Whether an entry is, or links to, a "dir" or a "file"; False for a loop of links."""
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError as error:
        if is_temporary(error):
            raise
        return False


def _contains(outer: str, inner: Path) -> bool:
    outer, real = os.path.realpath(outer), os.path.realpath(inner)
    return os.path.commonpath([outer, real]) == outer
