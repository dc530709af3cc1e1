"""What the tests of the sources share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.config import ConfigError, DataConfig
from train.data.sources import Example, Splits, open_splits


def refusal(config: DataConfig, opened: Callable = open_splits) -> str:
    """The message of the ConfigError; any other exception, or warning, is a failure."""
    with pytest.raises(ConfigError) as error:
        opened(config)
    return str(error.value)


def contents(splits: Splits) -> tuple[list[Example], list[Example]]:
    """All examples of both splits."""
    train, test = ([source[i] for i in range(len(source))] for source in splits)
    return train, test


def same(a: list[Example], b: list[Example]) -> bool:
    """Whether the pixels and labels of two lists are the same."""
    return len(a) == len(b) and all(
        np.array_equal(x.image, y.image) and x.label == y.label for x, y in zip(a, b, strict=True)
    )


def picture(path: Path, value: int = 0, size: int = 4) -> Path:
    """Writes a grey image of one value, in the format of the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path)
    return path


def names(source) -> list[str]:
    """The names of all examples."""
    return [source.name(i) for i in range(len(source))]
