"""Data: from image files to batches, as a function of the config and the step.

Modules:
  sources: data sets, as anything with `len()` and `[i]`.
  images: decoding, cropping and resizing.
  pipeline: streams of training and evaluation batches.
  batch: the arrays of a batch on the host.
  readers: one example of a stream, read, decoded and cropped.
  sizes: training images that grow during a run.
  order: the order of the training examples.
  balance: class-balanced sampling.
  philox: random numbers for many examples at once.
  prefetch: background prefetch, with stall warnings.
  on_device: data sets that are stored on the accelerator.
  statistics: exact sums over training images, for their mean and covariance.
  check: unreadable evaluation images, found before training.
  file_list: the files that a run was trained on, recorded and compared.
  retry: repeated reads after temporary errors.
  thread_pool, workers: threads and processes that read.
"""

from typing import TYPE_CHECKING

from train.lazy import lazy_names

if TYPE_CHECKING:
    from train.data.pipeline import eval_batches as eval_batches
    from train.data.pipeline import train_batches as train_batches
    from train.data.sources import ArraySource as ArraySource
    from train.data.sources import Example as Example
    from train.data.sources import Source as Source
    from train.data.sources import Splits as Splits
    from train.data.sources import open_splits as open_splits

__getattr__ = lazy_names(
    __name__,
    {
        "pipeline": ["eval_batches", "train_batches"],
        "sources": ["ArraySource", "Example", "Source", "Splits", "open_splits"],
    },
)
