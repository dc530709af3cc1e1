"""Training sets in device memory (`data.resident`): read and uploaded once, cropped on the device.

The host only samples indices, crop offsets and flips, with the functions that every other run uses:
16 bytes per example. The device crops the batch from the resident images. The batches are
bit-identical to those that the host would make.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from train.config import AugmentConfig, ConfigError, DataConfig, EvalConfig, RunConfig
from train.config.effects import shown
from train.data.balance import Balance
from train.data.batch import HostBatch, label_array
from train.data.images.crops import padded
from train.data.images.draws import pad_offsets
from train.data.order import batch_positions, examples_at
from train.data.philox import augmentation_key, first_words
from train.data.pipeline import eval_batches
from train.data.prefetch import Feed, never
from train.data.readers import BadExample
from train.data.sources import Source, Splits
from train.distributed.mesh import Batch, batch_sharding, replicated_sharding

LIMIT = 2 * 2**30
"""Most bytes of images per device with which `data.resident` "auto" turns it on."""
COLUMNS = ("index", "top", "left", "mirrored")
"""Columns of the crop parameters, int32 [..., B, 4]; `mirrored`: 1 left-right, 2 top-bottom, 3
both."""

_CROPS = ("pad", "none")
_SUPPORTED = (
    *("crop", "pad", "pad_mode", "flip", "vertical_flip", "interpolation", "repeats"),
    *("area", "aspect", "fill", "blur_sigma", "size_ramp", "size_step"),  # of host options
)
_BLOCK = 4096  # examples sampled at once; more do not reduce NumPy's overhead further
_READ = 256  # batch size of reading the set


def lives_on_devices(config: RunConfig, splits: Splits, mesh: Mesh, total_steps: int) -> bool:
    """Whether the training images are kept in device memory, by `data.resident`.

    "auto" does so on accelerators, if the set is small enough and the run reads all of it.

    Raises:
      ConfigError: `data.resident` is "on", but the configuration does not support it.
    """
    choice = config.data.resident
    why_not = _unsupported(config.augment, jax.process_count())
    if choice == "on" and why_not:
        raise ConfigError(f"data.resident 'on': {why_not}; choose auto or off")
    if choice != "auto":
        return choice == "on"
    return not why_not and _worthwhile(config, splits, mesh, total_steps)


def why_on_host(config: RunConfig, splits: Splits, mesh: Mesh, total_steps: int) -> str:
    """The reason why "auto" is off, if only an option of the host is in the way; else ""."""
    small = config.augment.crop in _CROPS and not any(config.augment.scale)
    if config.data.resident != "auto" or not small:
        return ""
    why_not = _unsupported(config.augment, jax.process_count())
    return why_not if _worthwhile(config, splits, mesh, total_steps) else ""


def _worthwhile(config: RunConfig, splits: Splits, mesh: Mesh, total_steps: int) -> bool:
    long_enough = total_steps * config.batch_size >= len(splits.train)
    small_enough = _bytes_on_device(config, splits) <= LIMIT
    accelerator = mesh.devices.flat[0].platform != "cpu"
    return accelerator and long_enough and small_enough


def _unsupported(augment: AugmentConfig, processes: int) -> str:
    """The reason why the configuration does not support resident data; "" if it does."""
    if augment.crop not in _CROPS:
        return f"augment.crop {augment.crop!r} is done on the host, {' and '.join(_CROPS)} are not"
    for field in fields(augment):
        value = getattr(augment, field.name)
        if field.name not in _SUPPORTED and value != field.default:
            return f"augment.{field.name} {shown(value)} is done on the host"
    if augment.interpolation == "random":
        return "augment.interpolation random is done on the host"
    if processes > 1:
        return f"there are {processes} processes, and only one is supported"
    return ""


def _margin(augment: AugmentConfig) -> int:
    return augment.pad if augment.crop == "pad" else 0


def _bytes_on_device(config: RunConfig, splits: Splits) -> int:
    size, padded = config.data.image_size, config.data.image_size + 2 * _margin(config.augment)
    train, evaluation = splits
    train_bytes = len(train) * padded**2 * train.channels
    return train_bytes + len(evaluation) * size**2 * evaluation.channels


def crop_params(
    count: int,
    augment: AugmentConfig,
    *,
    seed: int,
    batch_size: int,
    start: int,
    stop: int,
    order: int = 2,
    balance: Balance | None = None,
    replacement: np.ndarray | None = None,
) -> Iterator[HostBatch]:
    """Samples the crop parameters of the training batches of steps `start` up to `stop`.

    Args:
      count: number of examples in the source.
      order, balance: `data.order`, `data.balance`.
      replacement: int64 [count], the example that is used for each one, where some are unreadable;
        None: all are readable.

    Yields:
      `crops` int32 [batch_size, 4] with columns `COLUMNS`, and `unreadable` and `retried` as in a
      `HostBatch`.
    """
    steps = max(_BLOCK // batch_size, 1)
    for first in range(start, stop, steps):
        last = min(first + steps, stop)
        repeats = augment.repeats
        positions = batch_positions(batch_size, first, last, repeats)
        found = examples_at(count, seed, positions, order=order, repeats=repeats, balance=balance)
        epochs, requested, copies = found.T
        indices = requested if replacement is None else replacement[requested]
        crops = _crop_params(epochs, indices, augment, seed, copies)
        unreadable = np.where(indices == requested, -1, requested).astype(np.int32)
        for rows in range(0, len(indices), batch_size):
            yield {
                "crops": crops[rows : rows + batch_size],
                "unreadable": unreadable[rows : rows + batch_size],
                "retried": np.zeros(batch_size, np.int32),
            }


def _crop_params(
    epochs: np.ndarray,
    indices: np.ndarray,
    augment: AugmentConfig,
    seed: int,
    copies: np.ndarray | int = 0,
) -> np.ndarray:
    """int32 [N, 4]: the numbers that `crops.train_image` draws from each example's generator."""
    key = augmentation_key(seed, *(np.uint64(x) for x in (epochs, indices, copies)))
    words = first_words(np.stack(key, axis=-1))
    crops = np.zeros((len(indices), len(COLUMNS)), np.int32)
    crops[:, 0] = indices
    if augment.crop == "pad":
        crops[:, 1:3] = pad_offsets(words[:, 0], augment.pad)
        words = words[:, 1:]
    if augment.flip:
        crops[:, 3] = words[:, 0] >> 63 == 0  # Generator.random() < 1/2
        words = words[:, 1:]
    if augment.vertical_flip:
        crops[:, 3] += 2 * (words[:, 0] >> 63 == 0)
    return crops


def gather_crops(
    images: jax.Array,
    labels: jax.Array,
    crops: jax.Array,
    size: int,
    *,
    vertical_flip: bool = False,
) -> Batch:
    """Crops a batch from the resident images. It is traced by JAX.

    Args:
      images: uint8 [N, H, W, C], padded.
      labels: int32 [N], or uint8 [N, K].
      crops: int32 [B, 4] with columns `COLUMNS`.
      size: height and width of the crops.
      vertical_flip: whether `mirrored` may be above 1.

    Returns:
      `image` uint8 [B, size, size, C], `label` int32 [B], `mask` float32 [B].
    """
    shape = (1, size, size, images.shape[-1])

    def one(row: jax.Array) -> jax.Array:
        index, top, left, mirrored = row
        view = lax.dynamic_slice(images, (index, top, left, jnp.zeros_like(top)), shape)[0]
        if not vertical_flip:
            return jnp.where(mirrored > 0, view[:, ::-1], view)
        view = jnp.where(mirrored & 1, view[:, ::-1], view)
        return jnp.where(mirrored & 2, view[::-1], view)

    index = crops[:, 0]
    mask = (index >= 0).astype(jnp.float32)
    return {"image": jax.vmap(one)(crops), "label": labels[index], "mask": mask}


@dataclass(frozen=True)
class Resident:
    """A training set in device memory; every device holds all of it."""

    images: jax.Array
    """uint8 [N, H, W, C], padded if `augment.crop` is "pad"."""
    labels: jax.Array
    """int32 [N]; with `data.multi_label`, uint8 [N, K]."""
    replacement: np.ndarray | None
    """int64 [N], the example that is used for each one; None: all are readable."""
    size: int
    """Height and width of the images that the network receives."""
    mesh: Mesh
    vertical_flip: bool = False

    @cached_property
    def gather_crops(self) -> Callable[[jax.Array, jax.Array, jax.Array], Batch]:
        """(images, labels, crops [B, 4]) -> the batch; B is split over the devices."""
        data = batch_sharding(self.mesh)

        def batch(images: jax.Array, labels: jax.Array, crops: jax.Array) -> Batch:
            found = gather_crops(images, labels, crops, self.size, vertical_flip=self.vertical_flip)
            return lax.with_sharding_constraint(found, data)

        return batch

    @cached_property
    def _jitted(self) -> Any:
        everywhere, data = replicated_sharding(self.mesh), batch_sharding(self.mesh)
        return jax.jit(
            self.gather_crops, in_shardings=(everywhere, everywhere, data), out_shardings=data
        )

    def put(self, batch: HostBatch) -> Batch:
        """A step's crop parameters -> its batch on the devices, sharded as by `put_batch`."""
        return self._jitted(self.images, self.labels, batch["crops"])


def upload(
    source: Source,
    data: DataConfig,
    augment: AugmentConfig,
    mesh: Mesh,
    *,
    report: Callable[[str], None],
    stopped: Callable[[float], bool] = never,
) -> Resident:
    """Reads a whole training set and copies it to the devices.

    Args:
      report, stopped: see `Feed`.

    Raises:
      BadExample: an image is unreadable (`data.on_bad_image` "error"), or all images are.
      Stopped: `stopped` returned True.
    """
    size, pad, count = data.image_size, _margin(augment), len(source)
    images = np.zeros((count, size + 2 * pad, size + 2 * pad, source.channels), np.uint8)
    labels: np.ndarray = np.zeros(*label_array(count, data, len(source.class_names)))
    readable = np.zeros(count, bool)
    # the view from which "pad" and "none" crop
    assert augment.interpolation != "random"
    whole = EvalConfig(crop_fraction=1.0, interpolation=augment.interpolation)
    batches = eval_batches(source, data, whole, batch_size=_READ)
    options: Any = {"report": report, "stopped": stopped, "what": "reading of the set, batch"}
    with Feed(batches, lambda _: None, data, **options) as feed:
        for batch, _ in feed:
            valid = batch["index"] >= 0
            index = batch["index"][valid]
            views = batch["image"][valid]
            images[index] = padded(views, augment) if pad else views
            labels[index], readable[index] = batch["label"][valid], True
    put = partial(jax.device_put, device=replicated_sharding(mesh))
    found = _replacements(readable)
    return Resident(put(images), put(labels), found, size, mesh, augment.vertical_flip)


def _replacements(readable: np.ndarray) -> np.ndarray | None:
    """int64 [N]: the next readable example, cyclically, which `TrainReader` would use too."""
    good = np.flatnonzero(readable)
    if not len(good):
        raise BadExample("no example of the training split can be read")
    if len(good) == len(readable):
        return None
    return good[np.searchsorted(good, np.arange(len(readable))) % len(good)]


def stacked(found: Sequence[HostBatch], room: int) -> HostBatch:
    """Joins the crop parameters of consecutive steps: `crops` int32 [room, B, 4], padded with 0."""
    first = found[0]["crops"]
    crops = np.zeros((room, *first.shape), np.int32)
    crops[: len(found)] = [each["crops"] for each in found]
    keys = ("unreadable", "retried")
    return {"crops": crops, **{key: np.concatenate([each[key] for each in found]) for key in keys}}
