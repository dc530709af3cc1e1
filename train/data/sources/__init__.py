"""Where examples come from: anything with `len()` and `[i]`."""

from train.data.sources.base import (
    ArraySource,
    Example,
    Source,
    Splits,
    SyntheticSource,
    class_counts,
)
from train.data.sources.csv_list import CsvSource
from train.data.sources.folder import FolderSource
from train.data.sources.listing import IMAGE_SUFFIXES, image_files, is_image_name
from train.data.sources.open import open_splits
from train.data.sources.tfds import TfdsSource

__all__ = [
    "IMAGE_SUFFIXES",
    "ArraySource",
    "CsvSource",
    "Example",
    "FolderSource",
    "Source",
    "Splits",
    "SyntheticSource",
    "TfdsSource",
    "class_counts",
    "image_files",
    "is_image_name",
    "open_splits",
]
