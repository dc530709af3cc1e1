"""What the task's section of the report receives and returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from train.report.metrics_file import Row


@dataclass(frozen=True)
class Examples:
    """The evaluated examples of one whole split, in its order."""

    values: Mapping[str, np.ndarray]
    """[N, ...] by name: the `loss` of each example, and what `Task.examples` returns."""
    names: Sequence[str]
    """[N]: file names, or "test[17]"."""
    class_names: Sequence[str]
    """[K]: the names of the data's classes, by label."""
    picture: Callable[[int], np.ndarray]
    """Example 0..N-1 -> uint8 [H, W, 1 or 3] as the network sees it. It decodes the image again, so
    call it only for the examples that are shown."""


@dataclass(frozen=True)
class Part:
    """The task's part of the page."""

    cards: Sequence[tuple[str, str]] = ()
    """(label, value) as text: the figures at the top of the page."""
    sections: Sequence[tuple[str, str]] = ()
    """(heading as text, content as HTML), below the learning curves."""


Section = Callable[[Examples, Row], Part]
"""(examples, metrics) -> part of the page. `metrics`: the means over the examples of the same
weights, as metrics.jsonl has them; {} if that evaluation was not logged."""
