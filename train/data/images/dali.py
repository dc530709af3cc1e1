"""NVIDIA DALI decodes, crops and resizes JPEGs on the GPU, for hosts with few CPU cores.

Without a GPU DALI uses the CPU, which is only useful for tests. `train/data/images/crops.py`
samples the crops. DALI's pixels differ from ours by rounding only.
"""

import itertools
import threading
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from train.config import ConfigError
from train.data.images.jpeg import Box
from train.data.images.operations import apply
from train.data.images.policies import Operations

_per_thread = threading.local()
_pipeline_numbers = itertools.count()


class View(NamedTuple):
    """A training view of a JPEG: what was drawn for it, and the array for its pixels."""

    data: bytes
    box: Box
    mirrored: bool
    upside_down: bool
    operations: Operations
    """On the view, run on the CPU."""
    fill: tuple[int, ...]
    """`augment.fill`."""
    out: np.ndarray
    """uint8 [size, size, 3]."""


class Failed(Exception):
    """DALI did not decode one of the images; it does not say which."""


def check() -> None:
    """Raises ConfigError if DALI is not installed."""
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        raise ConfigError(
            "data.decoder dali: NVIDIA DALI is not installed; pip install -e '.[dali]', or "
            "choose data.decoder cpu"
        )


def decode(views: list[View], max_views: int, threads: int) -> None:
    """Decodes all views and writes their pixels to `View.out`.

    Each calling thread has its own pipeline. The pipelines of several threads are distributed over
    the GPUs of this process.

    Args:
      max_views: the maximum number of views in any call of this thread.
      threads: number of DALI's CPU threads.

    Raises:
      Failed: an image could not be decoded; nothing was written.
    """
    if not views:
        return
    key = max_views, threads, views[0].out.shape[0]
    if getattr(_per_thread, "key", None) != key:
        _per_thread.key, _per_thread.pipeline = key, _pipeline(*key)
    begin, extent = np.split(np.array([view.box for view in views], np.int32), 2, axis=1)
    inputs = {
        "data": [np.frombuffer(view.data, np.uint8) for view in views],
        "begin": list(begin),
        "extent": list(extent),
        "mirrored": list(np.array([view.mirrored for view in views], np.int32)),
        "upside_down": list(np.array([view.upside_down for view in views], np.int32)),
    }
    try:
        for name, values in inputs.items():
            _per_thread.pipeline.feed_input(name, values)
        (pixels,) = _per_thread.pipeline.run()
        decoded = np.asarray(pixels.as_cpu().as_tensor())
    except RuntimeError as error:
        del _per_thread.key, _per_thread.pipeline  # a pipeline cannot be used after an error
        raise Failed(str(error)) from None
    for view, image in zip(views, decoded, strict=True):
        view.out[...] = apply(image, view.operations, view.fill)


def _pipeline(max_views: int, threads: int, size: int) -> Any:
    import jax
    from nvidia.dali import fn, pipeline_def, types

    gpus = [d.local_hardware_id for d in jax.local_devices() if d.platform == "gpu"]
    device = gpus[next(_pipeline_numbers) % len(gpus)] if gpus else None

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=max_views,
        num_threads=threads,
        device_id=device,
        prefetch_queue_depth=1,
        exec_dynamic=False,
    )
    def views() -> Any:
        data = fn.external_source(name="data", dtype=types.UINT8, ndim=1)
        begin = fn.external_source(name="begin", dtype=types.INT32, ndim=1)
        extent = fn.external_source(name="extent", dtype=types.INT32, ndim=1)
        mirrored = fn.external_source(name="mirrored", dtype=types.INT32, ndim=0)
        upside_down = fn.external_source(name="upside_down", dtype=types.INT32, ndim=0)
        pixels = fn.decoders.image_slice(
            data,
            begin,
            extent,
            axes=[0, 1],
            normalized_anchor=False,
            normalized_shape=False,
            output_type=types.RGB,
            device="cpu" if device is None else "mixed",
        )
        pixels = fn.resize(
            pixels, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True
        )
        return fn.flip(pixels, horizontal=mirrored, vertical=upside_down)

    pipeline = views()
    pipeline.build()
    return pipeline
