"""Torch checkpoints (.pth, .pt, .th, .bin) as NumPy arrays, safely, with or without torch.

A checkpoint is a pickle, and a pickle may call anything it can name. What is read here names
tensors, plain containers and the classes of `pickle_types.py` only: `torch.load(weights_only=True)`
sees to it where torch is installed, and the reader below everywhere else.
"""

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from operator import index
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import numpy as np

from resnet_jax.weights.pickle_types import Replacement, find_type, plain_type

Check = Callable[[int], None]  # raises ValueError where reading would take too many bytes

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what a file of torch < 1.6 begins with

STORAGES = {  # the numbers in the file, and as they are returned
    "DoubleStorage": ("f8", "f8"),
    "FloatStorage": ("f4", "f4"),
    "HalfStorage": ("f2", "f2"),
    "BFloat16Storage": ("u2", "f4"),  # NumPy has no bfloat16
    "LongStorage": ("i8", "i8"),
    "IntStorage": ("i4", "i4"),
    "ShortStorage": ("i2", "i2"),
    "CharStorage": ("i1", "i1"),
    "ByteStorage": ("u1", "u1"),
    "BoolStorage": ("u1", "?"),
    "UntypedStorage": ("u1", "u1"),  # of the types that came after storages with a type
}


class UnsafeFile(ValueError):
    """The pickle names a class or function that is not known to be harmless."""


def read_torch(path: str | os.PathLike[str], check: Check = lambda nbytes: None) -> Any:
    """The object in a torch checkpoint; its tensors become NumPy arrays.

    Bfloat16 becomes float32, parameters are arrays like any other, and dicts of every kind
    are plain dicts. Tensors that share storage in the file share memory in the result. Objects of
    the classes in `pickle_types.py` become dicts of their attributes, strings or numbers.

    Args:
      check: is called with the bytes that the file's content takes, before it is read, and raises
        `ValueError` if those are too many.

    Raises `UnsafeFile` for a pickle that names any other class or function,
    `FileNotFoundError`, and `ValueError` for all else: no torch file, cut short, damaged.
    Where torch is installed, it reads the file, and some kinds more (complex numbers, bytes).
    """
    try:
        import torch
    except ImportError:
        return read_without_torch(path, check)
    if zipfile.is_zipfile(path):
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            check(_content_size(archive))
    # Torch's errors are of many kinds and many lines: what it refuses, the reader below refuses
    # by name, or reads if it is a pickle protocol that torch has no reader for.
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of such protocols
        return _plain(torch.load(path, map_location="cpu", weights_only=True, mmap=False), {})
    return read_without_torch(path, check)


def read_without_torch(path: str | os.PathLike[str], check: Check = lambda nbytes: None) -> Any:
    """`read_torch` by the reader of this module, whether torch is installed or not."""
    try:
        with open(path, "rb") as file:
            return _plain(_read(file, check), {})
    except FileNotFoundError:
        raise
    except ValueError as error:
        kind = UnsafeFile if isinstance(error, UnsafeFile) else ValueError
        raise kind(f"{os.fspath(path)}: {_printable(error)}") from None
    except Exception as error:  # whatever pickle and zipfile stumble over
        why = f"{type(error).__name__}: {_printable(error)}"
        raise ValueError(f"{os.fspath(path)}: cut short, damaged or unreadable ({why})") from error


def _printable(error: Exception) -> str:
    """Its text in one line; parts of that are from the file, with whatever is in it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(error))


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """`value` in plain dicts, lists, tuples and sets, with torch's tensors as arrays."""
    if id(value) in known:  # what is shared stays shared
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
                raise ValueError("a view that repeats its numbers, and would not stay one")
            tensor = tensor.float()
        plain = tensor.numpy()
    else:
        raise ValueError(f"holds a {type(value).__name__}, no tensor and no plain container")
    known[id(value)] = plain
    return plain


def _content_size(archive: zipfile.ZipFile) -> int:
    """Bytes of an archive's content once it is inflated."""
    return sum(record.file_size for record in archive.infolist())


def _read(file: IO[bytes], check: Check) -> Any:
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\3\4"):
        return _read_zip(file, check)
    if head[257:262] == b"ustar":
        raise ValueError("of torch < 0.1.10 (a tar archive), too old; save it anew with torch")
    if head.startswith(b"\x80"):
        return _read_legacy(file)
    raise ValueError(f"no torch file: it {f'starts with {head[:16]!r}' if head else 'is empty'}")


def _read_zip(file: IO[bytes], check: Check) -> Any:
    """The format since torch 1.6: NAME/data.pkl, and a record NAME/data/KEY of each storage."""
    with zipfile.ZipFile(file) as archive:
        check(_content_size(archive))
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"no torch file: a zip archive with {len(roots)} */data.pkl, not one")
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

        return _Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")), storage).load()


def _read_legacy(file: IO[bytes]) -> Any:
    """The format before torch 1.6: five pickles, then the count and numbers of each storage."""
    left = os.fstat(file.fileno()).st_size

    def storage(kind: str, key: str, numel: int) -> np.ndarray:
        nonlocal left
        stored, held = map(np.dtype, STORAGES[kind])
        if numel * stored.itemsize > left:
            raise ValueError(f"cut short: storage {key} is longer than what the file has left")
        left -= numel * stored.itemsize
        return np.zeros(numel, held)  # filled below, when all are known

    if _Unpickler(file, storage).load() != MAGIC or _Unpickler(file, storage).load() != PROTOCOL:
        raise ValueError("no torch file: a pickle that begins otherwise")
    _Unpickler(file, storage).load()  # sizes of C's types where it was written; unused
    unpickler = _Unpickler(file, storage)
    value = unpickler.load()
    keys = _Unpickler(file, storage).load()
    if set(keys) != set(unpickler.storages):
        raise ValueError("damaged: its list of storages is not that of its tensors")
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
    numbers = np.frombuffer(raw, dtype, array.size)  # or an error
    if kind == "BFloat16Storage":  # the upper half of a float32
        array.view("u4")[:] = numbers.astype("u4") << 16
    else:
        array[:] = numbers


class _Unpickler(pickle._Unpickler):
    """Unpickles tensors and plain values; anything else raises `UnsafeFile` by name.

    It derives from the unpickler in Python: that in C takes an index into its memo for the
    memo's size, so that one damaged byte may ask for all of the machine's memory.
    `allocate(kind, key, numel)` gives the 1-D array of a storage, at its first mention.
    """

    # A bytearray asks for memory likewise, and no checkpoint has any.
    dispatch: ClassVar = pickle._Unpickler.dispatch.copy()
    del dispatch[pickle.BYTEARRAY8[0]]

    def load_newobj(self: Any) -> None:
        """`cls.__new__(cls, *args)`, where a class may be a `Replacement`."""
        replaced = isinstance(self.stack[-2], Replacement)
        pickle._Unpickler.dispatch[(pickle.REDUCE if replaced else pickle.NEWOBJ)[0]](self)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def __init__(self, file: IO[bytes], allocate: Callable[[str, str, int], np.ndarray]):
        def readline() -> bytes:  # a name that is cut short is not a foreign name
            line = file.readline()
            if not line.endswith(b"\n"):
                raise EOFError("within a line")
            return line

        whole: Any = SimpleNamespace(read=file.read, readline=readline)
        super().__init__(whole, encoding="utf-8")  # of the strings of Python 2
        self._allocate = allocate
        self.storages: dict[str, tuple[str, np.ndarray]] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module
        match module, name:
            case "torch" | "torch.storage", _ if name in STORAGES:
                return name
            case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
                return lambda *args: _tensor(*args)
            case "torch._utils", "_rebuild_tensor_v3":
                return lambda *args: _unread_tensor(*args)
            case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return lambda data, *_: data
        if (found := find_type(f"{module}.{name}")) is not None:
            return found
        why = "a checkpoint holds tensors and plain containers only; save its state dict alone"
        raise UnsafeFile(f"refuses to load {module}.{name}: {why}")

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The 1-D array of ("storage", type, key, device, numel), or of a view of that."""
        match pid:
            case ("storage", str(kind), str(key), _, int(numel), *view) if kind in STORAGES:
                pass
            case _:
                raise ValueError("damaged: it refers to something that is no storage")
        if key not in self.storages:
            self.storages[key] = kind, self._allocate(kind, key, numel)
        kept, storage = self.storages[key]
        if (kept, storage.size) != (kind, numel):
            raise ValueError(f"damaged: storage {key} has two types or sizes")
        match view:
            case [] | [None]:
                return storage
            case [(_, int(start), int(count))] if 0 <= start <= start + count <= numel:
                return storage[start : start + count]
        raise ValueError(f"damaged: a view reaches beyond storage {key} of {numel}")


def _unread_tensor(*args: Any) -> None:
    """Types that have no storage of their own: 8-bit floats, unsigned integers."""
    kind = next((arg for arg in args if isinstance(arg, str)), "an unknown type")
    raise ValueError(f"holds a tensor of {kind}, which is not read; convert it to torch.float32")


def _tensor(
    storage: np.ndarray, start: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """A view of its storage.

    The bounds are checked in Python's integers, because those of NumPy overflow.
    """
    start, size, stride = index(start), tuple(map(index, size)), tuple(map(index, stride))
    if type(storage) is not np.ndarray:  # an OrderedDict may have a size, too
        raise ValueError("damaged: a tensor without a storage")
    if len(size) != len(stride) or min(start, *size, *stride, 0) < 0:
        raise ValueError(f"damaged: a tensor of size {size}, strides {stride}, at {start}")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    last = start + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= storage.size:
        tensor = f"a tensor of size {size}, strides {stride}, at {start}"
        raise ValueError(f"damaged: {tensor}, reaches beyond its storage of {storage.size}")
    strides = [step * storage.itemsize for step in stride]
    return np.ndarray(size, storage.dtype, storage.data, start * storage.itemsize, strides)
