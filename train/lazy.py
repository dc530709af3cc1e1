"""Public names of a package, imported when they are first used (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping, Sequence


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """The `__getattr__` of a package whose import loads none of its modules.

    Args:
      package: its `__name__`.
      modules: module of the package -> its public names.

    >>> lazy_names("train", {"errors": ["ConfigError"]})("ConfigError").__module__
    'train.errors'
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def getattr_(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return getattr_
