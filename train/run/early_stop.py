"""Early stopping: a run ends when its evaluations have not improved for a while."""

import math
from collections.abc import Sequence

from train.learn.tasks import Metric
from train.report.metrics_file import Row
from train.run.parts import Run


def since_best(values: Sequence[float], metric: Metric) -> int:
    """The number of values after the best one. Of equal ones, the first is the best.

    >>> top1 = Metric("top1", "top-1")
    >>> since_best([0.5, 0.7, 0.7, 0.6], top1), since_best([], top1)
    (2, 0)
    """
    scores = [metric.score(value) for value in values]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def out_of_patience(run: Run, evaluations: Sequence[Row]) -> str | None:
    """Why the run ends after these evaluations, its last one among them; None: it goes on.

    It is decided by the metric that chooses the best checkpoint, of the weights that are evaluated
    (the average, if there is one). The rows are those of metrics.jsonl, so a resumed run ends where
    an uninterrupted one does.
    """
    config, metric = run.config, run.task.ranking(run.config.checkpoint.best)
    field = f"ema_{metric.name}" if config.averages else metric.name
    found = [row.get(field) for row in evaluations]
    values = [math.nan if value is None else value for value in found]
    if not config.patience or since_best(values, metric) < config.patience:
        return None
    step = evaluations[-1]["step"]
    return (
        f"stopped early, after step {step:,} of {run.total_steps:,}: {metric.full_name} has not "
        f"improved in {config.patience} evaluation{'s' * (config.patience > 1)} (patience)"
    )
