"""The tasks by name, and which one a run trains."""

from collections.abc import Callable

from train.config import RunConfig
from train.learn.tasks.base import Task
from train.learn.tasks.classify import Classify

TASKS: dict[str, Callable[[RunConfig], Task]] = {
    Classify.name: lambda config: Classify(config.loss)
}
"""By name: config -> task."""


def task_name(config: RunConfig) -> str:
    """The name of the run's task. There is one so far, and so no option that chooses it."""
    return Classify.name


def make_task(config: RunConfig) -> Task:
    """The task of a run."""
    return TASKS[task_name(config)](config)
