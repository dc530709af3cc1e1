"""Orbax's writer for the checkpoints of a run, which also accepts paths such as `exp[1]`."""

import dataclasses
import glob
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

_TIMEOUT = 600
"""Time limit for writing one checkpoint, in all processes."""

_Path: Any = type(epath.Path("/"))


class _Literal(_Path):
    """A path whose own characters are literal in `glob`; epath treats all of it as a pattern."""

    def glob(self, pattern: str) -> Iterator["_Literal"]:
        found = glob.glob(os.path.join(glob.escape(str(self)), pattern))
        return map(type(self), found)


class ArraysHandler(ocp.PyTreeCheckpointHandler):
    """Writes arrays; `finalize` finds the files to merge in a folder with any name."""

    def finalize(self, directory: epath.Path) -> None:
        super().finalize(_Literal(os.fspath(directory)))


@ocp.args.register_with_handler(ArraysHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class ArraysSave(ocp.args.PyTreeSave):
    """The arguments of `ArraysHandler`; Orbax chooses a handler by the type of its arguments."""


def make_writer(before_rename: Callable[[], None]) -> ocp.AsyncCheckpointer:
    """Orbax's writer of a state and its record.

    Args:
      before_rename: called when a checkpoint is complete, before it is renamed to its step.
    """
    # Directories are created synchronously: a thread that fails to create one blocks the others.
    options = ocp.options.AsyncOptions(
        timeout_secs=_TIMEOUT,
        create_directories_asynchronously=False,
        post_finalization_callback=before_rename,
    )
    # Process 0 writes replicated arrays.
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
