"""`Task`: the loss, the metrics and the headline metric of what a network learns."""

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from train.distributed.mesh import Batch


@dataclass(frozen=True)
class Metric:
    """How one metric is named, printed and compared.

    >>> top1 = Metric("top1", "top-1", "top-1 accuracy", unit="%", higher_is_better=True)
    >>> top1.text(0.875), top1.axis
    ('87.50 %', 'Top-1 accuracy (%)')
    >>> error = Metric("error", "error", higher_is_better=False)
    >>> error.text(0.25), error.axis, error.best([0.5, math.nan, 0.25])
    ('0.2500', 'Error', 0.25)
    """

    name: str
    """Its key in `Task.metrics`, in metrics.jsonl and in a checkpoint's record."""
    label: str
    """Its short name, for progress lines."""
    title: str = ""
    """Its full name, for the report and messages; '': the same as `label`."""
    unit: str = ""
    """"%": the values are shares of 1, shown times 100. Any other unit only names the axis."""
    higher_is_better: bool = True

    @property
    def full_name(self) -> str:
        return self.title or self.label

    @property
    def heading(self) -> str:
        """The full name as the first words of a line."""
        return self.full_name[:1].upper() + self.full_name[1:]

    @property
    def axis(self) -> str:
        """The title of a chart's axis."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    @property
    def scale(self) -> float:
        """Stored value times this: the value that a person reads."""
        return 100 if self.unit == "%" else 1

    def text(self, value: float) -> str:
        """A value in a line of text."""
        return f"{value:.2%}".replace("%", " %") if self.unit == "%" else f"{value:.4f}"

    def score(self, value: float) -> float:
        """A number that is larger for a better value; NaN is worse than any value."""
        if math.isnan(value):
            return -math.inf
        return value if self.higher_is_better else -value

    def best(self, values: Sequence[float]) -> float:
        """The best of one or more values."""
        return max(values, key=self.score)


class Task(abc.ABC):
    """What a network learns: a loss and metrics per example, and which metric matters most.

    To add a task: subclass this, add the class to `TASKS` in `train/learn/tasks/registry.py`, and
    a function that renders its part of the report to `SECTIONS` in `train/report/sections.py`.
    Training, evaluation, progress lines, the choice of the best checkpoint and the learning curves
    use only what is declared here.

    `outputs` is what the network returns, [B, ...]. `batch` has `image` (normalised), `label`,
    `mask` and `target`; see `train.learn.prepare`. All methods are traced by JAX. The step sums
    what they return over the examples that `mask` admits: no method has to look at the mask.
    """

    name: ClassVar[str]
    """The key of the task in `TASKS` and `SECTIONS`."""
    headline: ClassVar[Metric]
    """One of `metrics`: printed in progress lines, drawn in the report, and by default the metric
    that decides which checkpoint is the best."""
    uses_whole_split: ClassVar[bool] = False
    """Whether `whole_split` returns metrics. The headline may be one: training rows lack it."""
    loss_metric: Metric = Metric("loss", "loss", higher_is_better=False)
    """How the loss is shown. Its name is always "loss"."""

    @abc.abstractmethod
    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """-> float32 [B]: the loss of each example. Training minimises its mean."""

    @abc.abstractmethod
    def metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """-> float32 [B] by name: the metrics of each example, with those of `whole_split` the
        headline among them."""

    def examples(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """-> [B, ...] by name: what the report needs of each example, beside its loss."""
        return {}

    def whole_split(self, values: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Metrics of a whole split that are no means over its examples, by name.

        Args:
          values: [N, ...], what `examples` returns for all examples of the split, on the host.
        """
        return {}

    def ranking(self, name: str) -> Metric:
        """The metric that `checkpoint.best` names: the loss, or the headline metric.

        "loss" is the loss. The other choice, "top1", is the headline metric of classification; for
        another task it means that task's headline metric.
        """
        return self.loss_metric if name == self.loss_metric.name else self.headline
