"""The tasks by name, and which one a run trains."""

from collections.abc import Callable

from train.config import RunConfig
from train.learn.tasks.base import Task
from train.learn.tasks.classify import Classify
from train.learn.tasks.multi_label import MultiLabel

TASKS: dict[str, Callable[[RunConfig], Task]] = {
    Classify.name: lambda config: Classify(config.loss),
    MultiLabel.name: lambda config: MultiLabel(config.loss),
}
"""By name: config -> task."""


def task_name(config: RunConfig) -> str:
    """The name of the run's task."""
    return MultiLabel.name if config.data.multi_label else Classify.name


def make_task(config: RunConfig) -> Task:
    """The task of a run."""
    return TASKS[task_name(config)](config)
