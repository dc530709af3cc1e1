"""What a network learns: `Task`, the tasks there are, and `make_task`, which builds a run's."""

from train.learn.tasks.base import Metric, Task
from train.learn.tasks.classify import NO_CLASS, Classify, top_class
from train.learn.tasks.multi_label import MultiLabel
from train.learn.tasks.registry import TASKS, make_task

__all__ = [
    "NO_CLASS",
    "TASKS",
    "Classify",
    "Metric",
    "MultiLabel",
    "Task",
    "make_task",
    "top_class",
]
