"""The report of a run, and the file of its metrics.

Modules:
  page: `report/index.html`.
  sections, base: the section of each task, and its input and output.
  preview: the page of the `preview` command.
  curves: learning curves, as SVG.
  classification: confusions, and precision, recall and F1 of each class.
  multi_label: scores of each class of multi-label data.
  markup: numbers, tables and pictures as HTML.
  metrics_file: the rows of metrics.jsonl.
"""

from typing import TYPE_CHECKING

from train.lazy import lazy_names

if TYPE_CHECKING:
    from train.report.metrics_file import read_metrics as read_metrics
    from train.report.page import write_report as write_report

__getattr__ = lazy_names(
    __name__,
    {
        "metrics_file": ["read_metrics"],
        "page": ["write_report"],
    },
)
