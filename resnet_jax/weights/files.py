"""Reads tensors by name from safetensors, npz and torch checkpoints.

A file of a few kilobytes can inflate to gigabytes. So the memory that a file would take is computed
from its headers, and compared with the size of the network, before its content is read.
"""

import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet_jax.weights.torch_checkpoint import read_torch
from resnet_jax.weights.unpickler import UnsafeFile

Tensors = dict[str, np.ndarray]

# timm and torchvision wrap the state dict. They publish the averaged weights.
_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "net")
_PREFIXES = re.compile(r"((module|_orig_mod)\.)*")  # of DistributedDataParallel, torch.compile
_MODULES = re.compile(r"((model|net|network)\.)")  # the network's place in a LightningModule
_UNUSED = re.compile(r"(.*\.)?(num_batches_tracked|n_averaged)")
# Other programs' names in CIFAR networks -> the names of timm and torchvision.
_OTHER_NAMES = ((r"^linear\.", "fc."), (r"\.shortcut\.([01])\.", r".downsample.\1."))
# A checkpoint of a run has the weights, their average, and one or two states of the optimiser of
# the same size, in up to twice as many bytes.
_COPIES, _SLACK, _UNKNOWN = 16, 2**28, 2**30


class WeightsError(ValueError):
    """A file of weights cannot be read or does not fit the network."""


class Needed(NamedTuple):
    """The purpose of the tensors in a file."""

    what: str
    """For messages: "the weights of resnet50"."""
    nbytes: int
    """Size of the needed tensors in float32, in bytes."""


class _Budget(NamedTuple):
    """Limit on memory: twice the file's size, or several copies of the needed tensors."""

    file_size: int
    needed: Needed | None

    def check(self, nbytes: int) -> None:
        """Raises `WeightsError` if `nbytes` exceed the limit."""
        enough = _COPIES * self.needed.nbytes + _SLACK if self.needed else _UNKNOWN
        if nbytes > max(2 * self.file_size, enough):
            there = f"the file has {size(self.file_size)}"
            if self.needed:
                there += f", and {self.needed.what} take {size(self.needed.nbytes)}"
            raise WeightsError(f"would take {size(nbytes)} in memory; {there}")


def size(nbytes: float) -> str:
    """A number of bytes with a readable unit.

    >>> size(258), size(102_228_128), size(4 * 2**40)
    ('258 bytes', '102.2 MB', '4.4 TB')
    """
    if nbytes < 1000:
        return f"{nbytes} bytes"
    step = min(int(math.log10(nbytes)) // 3, 6)
    return f"{nbytes / 1000**step:.1f} {'kMGTPE'[step - 1]}B"


def read_tensors(path: str | os.PathLike[str], needed: Needed | None = None) -> Tensors:
    """The tensors of a file by name, in float32.

    Wrappers and tensors that only torch uses are removed.

    Args:
      path: the file; its suffix selects the format, see `load_weights`.
      needed: what the tensors are for. A file that would take much more memory is refused.

    Raises:
      WeightsError, UnsafeFile, FileNotFoundError: see `load_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        budget = _Budget(path.stat().st_size, needed)
        tensors = {
            key: value
            for key, value in _state_dict(_read(path, budget)).items()
            if not _UNUSED.fullmatch(key)
        }
        # A view of one number may have the shape of a large matrix.
        budget.check(4 * sum(value.size for value in tensors.values()))
        return {key: value.astype(np.float32) for key, value in tensors.items()}
    except UnsafeFile:
        raise
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def _read(path: Path, budget: _Budget) -> Any:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_npz(path, budget) if path.suffix == ".npz" else read_torch(path, budget.check)


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118
                dtype = file.get_slice(key).get_dtype()
                if not re.fullmatch(r"F(16|32|64)|BF16|[IU](8|16|32|64)|BOOL", dtype):
                    raise WeightsError(
                        f"{key} is of type {dtype}, which is not read; convert the file to F16, "
                        "BF16 or F32 (in torch: tensor.to(torch.float16))"
                    )
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"not a complete safetensors file ({error})") from error


def _read_npz(path: Path, budget: _Budget) -> Tensors:
    import zipfile
    import zlib

    if not zipfile.is_zipfile(path):  # NumPy reports other files as pickles
        raise WeightsError("not a complete npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_npz(archive, budget)
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return dict(file)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise WeightsError(f"not a complete npz file ({error})") from error


def _check_npz(archive: Any, budget: _Budget) -> None:
    """Checks sizes in the headers, because NumPy allocates arrays by them."""
    budget.check(sum(record.file_size for record in archive.infolist()))
    sizes = {}
    for record in archive.infolist():
        if record.filename.endswith(".npy"):
            with archive.open(record) as file:
                version = np.lib.format.read_magic(file)
                reader = "2_0" if version > (1, 0) else "1_0"
                shape, _, dtype = getattr(np.lib.format, f"read_array_header_{reader}")(file)
            sizes[record] = math.prod(shape) * dtype.itemsize
    budget.check(sum(sizes.values()))
    for record, nbytes in sizes.items():
        if nbytes > record.file_size:
            raise WeightsError(
                f"damaged: {record.filename} has {size(record.file_size)} for an array of "
                f"{size(nbytes)}"
            )


def _state_dict(content: Any) -> Tensors:
    """The state dict in a checkpoint, with the names of torchvision and timm."""
    if not isinstance(content, dict) or not content:
        held = "an empty dict" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise WeightsError(f"holds {held}, not a state dict")
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):  # timm writes None if there is no average
            return _state_dict(content[wrapper])
    for key, value in content.items():
        if not isinstance(key, str) or not _is_numeric(value):
            kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise WeightsError(
                f"holds no state dict: {key!r} is of type {kind}; "
                f"a state dict may be under the keys {', '.join(map(repr, _WRAPPERS))}"
            )
    return _renamed(content)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and np.can_cast(value.dtype, np.float32, "same_kind")


def _renamed(tensors: Tensors) -> Tensors:
    """The tensors without prefixes, under torchvision's names.

    If some tensors are in a module called `model` or `net`, as in a LightningModule, the others
    belong to its loss and metrics and are dropped.
    """
    names = {key: _PREFIXES.sub("", key, count=1) for key in tensors}
    inner = {key: name for key, name in names.items() if _MODULES.match(name)}
    if inner:
        within = {key: _MODULES.sub("", name, count=1) for key, name in inner.items()}
        return _renamed(_unique({name: tensors[key] for key, name in within.items()}, within))
    if "linear.weight" in names.values() or any(".shortcut." in key for key in tensors):
        for pattern, name in _OTHER_NAMES:
            names = {key: re.sub(pattern, name, old) for key, old in names.items()}
    return _unique({name: tensors[key] for key, name in names.items()}, names)


def _unique(renamed: Tensors, names: dict[str, str]) -> Tensors:
    if len(renamed) < len(names):
        twice = next(name for name in renamed if list(names.values()).count(name) > 1)
        keys = [key for key, name in names.items() if name == twice]
        raise WeightsError(f"{' and '.join(map(repr, keys))} are both {twice!r}")
    return renamed
