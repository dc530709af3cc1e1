"""Reads torch checkpoints (.pth, .pt, .th, .bin) safely as NumPy arrays, with or without torch.

A checkpoint is a pickle, and a pickle may call any function that it names. Only tensors, plain
containers and the classes of `pickle_types.py` are read here: by `torch.load(weights_only=True)` if
torch is installed, else by the reader in this file.
"""

import io
import os
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

import numpy as np

from resnet_jax.weights.pickle_types import plain_type
from resnet_jax.weights.unpickler import STORAGES, Unpickler, UnsafeFile

Check = Callable[[int], None]  # raises ValueError where reading would take too many bytes

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # at the start of a file of torch < 1.6


def read_torch(path: str | os.PathLike[str], check: Check = lambda nbytes: None) -> Any:
    """The object in a torch checkpoint, with tensors as NumPy arrays.

    bfloat16 becomes float32, parameters become arrays, and dicts of all types become plain dicts.
    Tensors that share storage in the file share memory in the result. Objects of the classes in
    `pickle_types.py` become dicts of their attributes, strings or numbers. If torch is installed,
    it reads the file, and some more types (complex numbers, bytes).

    Args:
      path: the file.
      check: called with the size of the file's content in bytes before it is read; raises
        `ValueError` if that is too much.

    Raises:
      UnsafeFile: a pickle that names any other class or function.
      FileNotFoundError: no such file.
      ValueError: not a torch file, truncated or damaged.
    """
    try:
        import torch
    except ImportError:
        return read_without_torch(path, check)
    if zipfile.is_zipfile(path):
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            check(_content_size(archive))
    # Torch's errors have many types and many lines. If torch refuses a file, the reader below names
    # the reason, or reads a pickle protocol that torch does not support.
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of such protocols
        return _plain(torch.load(path, map_location="cpu", weights_only=True, mmap=False), {})
    return read_without_torch(path, check)


def read_without_torch(path: str | os.PathLike[str], check: Check = lambda nbytes: None) -> Any:
    """`read_torch` without torch, even if it is installed."""
    try:
        with open(path, "rb") as file:
            return _plain(_read(file, check), {})
    except FileNotFoundError:
        raise
    except ValueError as error:
        kind = UnsafeFile if isinstance(error, UnsafeFile) else ValueError
        raise kind(f"{os.fspath(path)}: {_printable(error)}") from None
    except Exception as error:  # pickle and zipfile raise many types
        why = f"{type(error).__name__}: {_printable(error)}"
        raise ValueError(f"{os.fspath(path)}: cut short, damaged or unreadable ({why})") from error


def _printable(error: Exception) -> str:
    """The message in one line; parts of it come from the file and may be unprintable."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(error))


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """`value` with plain dicts, lists, tuples and sets, and with arrays for tensors."""
    if id(value) in known:  # shared objects stay shared
        return known[id(value)]
    plain: Any = plain_type(value)
    if plain is not value:
        return plain
    if isinstance(value, dict):
        plain = {_plain(k, known): _plain(v, known) for k, v in dict.items(value)}
    elif isinstance(value, (tuple, list, set, frozenset)):
        kind = next((kind for kind in (tuple, list) if isinstance(value, kind)), set)
        plain = kind(_plain(item, known) for item in value)
    elif value is None or isinstance(value, (int, float, complex, str, bytes, np.ndarray)):
        plain = value
    elif hasattr(value, "detach"):
        tensor = value.detach()
        if str(tensor.dtype) == "torch.bfloat16":
            if tensor.numel() > tensor.untyped_storage().nbytes():
                raise ValueError("a view that repeats its numbers would become a large array")
            tensor = tensor.float()
        plain = tensor.numpy()
    else:
        raise ValueError(
            f"holds a {type(value).__name__}, which is neither a tensor nor a plain container"
        )
    known[id(value)] = plain
    return plain


def _content_size(archive: zipfile.ZipFile) -> int:
    """Size of an archive's content without compression, in bytes."""
    return sum(record.file_size for record in archive.infolist())


def _read(file: IO[bytes], check: Check) -> Any:
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\3\4"):
        return _read_zip(file, check)
    if head[257:262] == b"ustar":
        raise ValueError(
            "a file of torch < 0.1.10 (a tar archive) is too old; save it again with a newer torch"
        )
    if head.startswith(b"\x80"):
        return _read_legacy(file)
    raise ValueError(f"not a torch file: it {f'starts with {head[:16]!r}' if head else 'is empty'}")


def _read_zip(file: IO[bytes], check: Check) -> Any:
    """The format since torch 1.6: NAME/data.pkl, and NAME/data/KEY for each storage."""
    with zipfile.ZipFile(file) as archive:
        check(_content_size(archive))
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(
                f"not a torch file: a zip archive with {len(roots)} */data.pkl, not one"
            )
        root, order = roots[0], "little"
        if f"{root}byteorder" in names:
            order = archive.read(f"{root}byteorder").decode()
        if order not in ("little", "big"):
            raise ValueError(f"byteorder {order!r}: little or big")

        def storage(kind: str, key: str, numel: int) -> np.ndarray:
            stored, held = map(np.dtype, STORAGES[kind])
            record, nbytes = archive.getinfo(f"{root}data/{key}"), numel * stored.itemsize
            if record.file_size != nbytes:
                raise ValueError(f"data/{key} has {record.file_size} bytes instead of {nbytes}")
            array = np.zeros(numel, held)
            _fill(array, kind, archive.read(record), order)
            return array

        return Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")), storage).load()


def _read_legacy(file: IO[bytes]) -> Any:
    """The format before torch 1.6: five pickles, then size and numbers of each storage."""
    left = os.fstat(file.fileno()).st_size

    def storage(kind: str, key: str, numel: int) -> np.ndarray:
        nonlocal left
        stored, held = map(np.dtype, STORAGES[kind])
        if numel * stored.itemsize > left:
            raise ValueError(f"cut short: storage {key} is longer than what the file has left")
        left -= numel * stored.itemsize
        return np.zeros(numel, held)  # filled below

    if Unpickler(file, storage).load() != MAGIC or Unpickler(file, storage).load() != PROTOCOL:
        raise ValueError("not a torch file: a pickle with another beginning")
    Unpickler(file, storage).load()  # sizes of C types on the writing machine; unused
    unpickler = Unpickler(file, storage)
    value = unpickler.load()
    keys = Unpickler(file, storage).load()
    if set(keys) != set(unpickler.storages):
        raise ValueError("damaged: the list of storages does not match the tensors")
    for key in keys:
        kind, array = unpickler.storages[key]
        count, nbytes = file.read(8), array.size * np.dtype(STORAGES[kind][0]).itemsize
        raw = file.read(nbytes)
        if count != array.size.to_bytes(8, "little") or len(raw) != nbytes:
            raise ValueError(f"cut short or damaged in storage {key}")
        _fill(array, kind, raw, "little")
    return value


def _fill(array: np.ndarray, kind: str, raw: bytes, order: Any) -> None:
    dtype = np.dtype(STORAGES[kind][0]).newbyteorder(order)
    numbers = np.frombuffer(raw, dtype, array.size)  # raises if there are too few
    if kind == "BFloat16Storage":  # the upper half of a float32
        array.view("u4")[:] = numbers.astype("u4") << 16
    else:
        array[:] = numbers
