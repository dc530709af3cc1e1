"""The sections of the report that belong to a task, by the task's name."""

from train.learn.tasks import Classify, MultiLabel, Task
from train.report import classification, multi_label
from train.report.base import Part, Section
from train.report.markup import metric_text

SECTIONS: dict[str, Section] = {
    Classify.name: classification.section,
    MultiLabel.name: multi_label.section,
}


def section(task: Task) -> Section:
    """The section of a task; one that has none is shown with its headline metric alone."""
    metric = task.headline
    return SECTIONS.get(
        task.name,
        lambda _, metrics: Part([(metric.heading, metric_text(metric, metrics.get(metric.name)))]),
    )
