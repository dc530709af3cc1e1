"""Importing torchvision."""

import importlib
import sys
from typing import Any


def import_torchvision() -> Any:
    """The module. If it is built for CUDA and torch for CPUs, two unused operators are missing."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        found = importlib.import_module("torchvision")
        found.kept = library  # type: ignore[attr-defined]
        return found
