"""Unpickles the tensors and plain values of a torch checkpoint, without torch."""

import pickle
from collections.abc import Callable
from operator import index
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import numpy as np

from resnet_jax.weights.pickle_types import Replacement, find_type

STORAGES = {  # type in the file, type of the result
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
    "UntypedStorage": ("u1", "u1"),  # of newer types, whose storages have no type
}


class UnsafeFile(ValueError):
    """The pickle names a class or function that is not known to be harmless."""


class Unpickler(pickle._Unpickler):
    """Unpickles tensors and plain values; anything else raises `UnsafeFile` with its name.

    It derives from the unpickler in Python. The one in C resizes its memo to any index in the file,
    so that one damaged byte may request all memory of the machine. `allocate(kind, key, numel)`
    returns the 1-D array of a storage when it is first used.
    """

    # A bytearray may request as much memory, and checkpoints have none.
    dispatch: ClassVar = pickle._Unpickler.dispatch.copy()
    del dispatch[pickle.BYTEARRAY8[0]]

    def load_newobj(self: Any) -> None:
        """`cls.__new__(cls, *args)`, for classes and `Replacement`s."""
        replaced = isinstance(self.stack[-2], Replacement)
        pickle._Unpickler.dispatch[(pickle.REDUCE if replaced else pickle.NEWOBJ)[0]](self)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def __init__(self, file: IO[bytes], allocate: Callable[[str, str, int], np.ndarray]):
        def readline() -> bytes:  # a truncated name is not an unknown name
            line = file.readline()
            if not line.endswith(b"\n"):
                raise EOFError("within a line")
            return line

        whole: Any = SimpleNamespace(read=file.read, readline=readline)
        super().__init__(whole, encoding="utf-8")  # for strings of Python 2
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
                raise ValueError("damaged: it refers to something that is not a storage")
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
    """Types without a separate storage type: 8-bit floats, unsigned integers."""
    kind = next((arg for arg in args if isinstance(arg, str)), "an unknown type")
    raise ValueError(f"holds a tensor of {kind}, which is not read; convert it to torch.float32")


def _tensor(
    storage: np.ndarray, start: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """A view of the storage.

    Bounds are checked with Python's integers, because NumPy's overflow.
    """
    start, size, stride = index(start), tuple(map(index, size)), tuple(map(index, stride))
    if type(storage) is not np.ndarray:  # an OrderedDict can have an attribute `size`
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
