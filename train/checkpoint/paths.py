"""Orbax as a run uses it, also in folders whose names mean something to a shell: `exp[1]`."""

import dataclasses
import glob
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

_TIMEOUT = 600
"""Seconds for the writing of one checkpoint, by the slowest of the processes."""

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


def make_writer(before_rename: Callable[[], None]) -> ocp.AsyncCheckpointer:
    """Orbax's writer of a state and its record.

    Args:
      before_rename: called when all of a checkpoint is written, before it gets its name.
    """
    # Directories are made at once: a thread that cannot make one leaves others waiting for it.
    options = ocp.options.AsyncOptions(
        timeout_secs=_TIMEOUT,
        create_directories_asynchronously=False,
        post_finalization_callback=before_rename,
    )
    # Process 0 writes what all processes hold.
    arrays = ocp.type_handlers.ArrayHandler(
        use_replica_parallel=False, enable_write_sharding_file=False
    )
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(async_options=options),
        state=ArraysHandler(type_handler_registry=registry),
        progress=ocp.JsonCheckpointHandler(),
    )
    return ocp.AsyncCheckpointer(handler, async_options=options)
