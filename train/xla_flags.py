"""XLA's flags that a run sets: here, nowhere else, and never over a user's own."""

import os
from importlib.metadata import version

# XLA's CPU compiler hands single convolutions to a library that is slower than its own way
# (docs/results/cpu.md). A flag that a later XLA does not know would end the process.
_NAME = "--xla_cpu_experimental_ynn_fusion_type"
_VALUE = "-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
_KNOWN_BEFORE = (0, 13)


def set_xla_flags() -> None:
    """Adds to `XLA_FLAGS`; before JAX's first use, which reads them."""
    flags = os.environ.get("XLA_FLAGS", "")
    major, minor, *_ = version("jaxlib").split(".")
    if _NAME not in flags and (int(major), int(minor)) < _KNOWN_BEFORE:
        os.environ["XLA_FLAGS"] = f"{flags} {_NAME}={_VALUE}".strip()
