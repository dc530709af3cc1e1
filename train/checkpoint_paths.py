"""Orbax in folders whose names mean something to a shell: `exp[1]`, `a*b`."""

import dataclasses
import glob
import os
from collections.abc import Iterator
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

_Path: Any = type(epath.Path("/"))


class _Literal(_Path):
    """A path that stands for itself in `glob`; epath takes all of it for a pattern."""

    def glob(self, pattern: str) -> Iterator["_Literal"]:
        found = glob.glob(os.path.join(glob.escape(str(self)), pattern))
        return map(type(self), found)


class ArraysHandler(ocp.PyTreeCheckpointHandler):
    """Writes arrays; finds what it has to merge at the end whatever the folder is called."""

    def finalize(self, directory: epath.Path) -> None:
        super().finalize(_Literal(os.fspath(directory)))


@ocp.args.register_with_handler(ArraysHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class ArraysSave(ocp.args.PyTreeSave):
    """What `ArraysHandler` saves: Orbax knows a handler by the class of its arguments."""
