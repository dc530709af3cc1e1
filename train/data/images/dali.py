"""JPEGs decoded, cropped and resized by NVIDIA DALI: on the GPU, for hosts with few cores.

Without a GPU DALI does it on the CPU, which is of no use but to try it. The crops are those that
`train/data/images/crops.py` draws; the pixels are DALI's, within rounding of ours.
"""

import itertools
import threading
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from train.config import ConfigError
from train.data.images.jpeg import Box

_own = threading.local()
_numbers = itertools.count()


class View(NamedTuple):
    """What a training example shows of a JPEG, and where it goes."""

    data: bytes
    box: Box
    flip: bool
    out: np.ndarray
    """uint8 [size, size, 3]."""


class Failed(Exception):
    """DALI did not decode one of the images; it does not say which."""


def check() -> None:
    """Raises ConfigError where DALI is not installed."""
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        raise ConfigError(
            "data.decoder dali: NVIDIA DALI is not installed; pip install -e '.[dali]', or "
            "choose data.decoder cpu"
        )


def decode(views: list[View], most: int, threads: int) -> None:
    """Writes the pixels of all views.

    A thread that calls this has a pipeline of its own; those of several threads take turns on this
    process's GPUs.

    Args:
      most: views in any call of this thread.
      threads: of DALI's, for what it does on the CPU.

    Raises:
      Failed: nothing was written.
    """
    if not views:
        return
    key = most, threads, views[0].out.shape[0]
    if getattr(_own, "key", None) != key:
        _own.key, _own.pipeline = key, _pipeline(*key)
    begin, extent = np.split(np.array([view.box for view in views], np.int32), 2, axis=1)
    inputs = {
        "data": [np.frombuffer(view.data, np.uint8) for view in views],
        "begin": list(begin),
        "extent": list(extent),
        "flip": list(np.array([view.flip for view in views], np.int32)),
    }
    try:
        for name, values in inputs.items():
            _own.pipeline.feed_input(name, values)
        (pixels,) = _own.pipeline.run()
        decoded = np.asarray(pixels.as_cpu().as_tensor())
    except RuntimeError as error:
        del _own.key, _own.pipeline  # after an error it is of no use
        raise Failed(str(error)) from None
    for view, image in zip(views, decoded, strict=True):
        view.out[...] = image


def _pipeline(most: int, threads: int, size: int) -> Any:
    import jax
    from nvidia.dali import fn, pipeline_def, types

    gpus = [d.local_hardware_id for d in jax.local_devices() if d.platform == "gpu"]
    device = gpus[next(_numbers) % len(gpus)] if gpus else None

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=most,
        num_threads=threads,
        device_id=device,
        prefetch_queue_depth=1,
        exec_dynamic=False,
    )
    def views() -> Any:
        data = fn.external_source(name="data", dtype=types.UINT8, ndim=1)
        begin = fn.external_source(name="begin", dtype=types.INT32, ndim=1)
        extent = fn.external_source(name="extent", dtype=types.INT32, ndim=1)
        flip = fn.external_source(name="flip", dtype=types.INT32, ndim=0)
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
        return fn.flip(pixels, horizontal=flip)

    pipeline = views()
    pipeline.build()
    return pipeline
