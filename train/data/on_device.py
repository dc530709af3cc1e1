"""A data set that fits the accelerator lives there: it is read and uploaded once.

The host still draws what it draws for every other run, by the same functions: which examples a step
asks for, where each crop lies, whether it is mirrored. That is a plan of 16 bytes an example. The
device cuts the batch out of the whole set, and so it is the same batch, bit for bit.
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
from train.data.images.crops import pad_offsets
from train.data.order import example_indices_between
from train.data.philox import first_words
from train.data.pipeline import (
    BadExample,
    HostBatch,
    augmentation_key,
    eval_batches,
)
from train.data.prefetch import Feed, never
from train.data.sources import Source, Splits
from train.distributed.mesh import Batch, batch_sharding, replicated_sharding

LIMIT = 2 * 2**30
"""Bytes of images on each device, up to which `data.resident` "auto" is on."""
COLUMNS = ("index", "top", "left", "mirrored")
"""Of a plan, int32 [..., B, 4]."""

_CROPS = ("pad", "none")
_KNOWN = ("crop", "pad", "flip", "area", "aspect")  # area and aspect: of other crops
_BLOCK = (
    4096  # examples whose parameters are drawn together: NumPy's overhead is gone from there on
)
_READ = 256  # examples of a batch in the one reading of the set


def lives_on_devices(config: RunConfig, splits: Splits, mesh: Mesh, total_steps: int) -> bool:
    """Whether the run's training images do, as `data.resident` has it.

    Raises:
      ConfigError: it is "on", and they cannot.
    """
    choice = config.data.resident
    why_not = _obstacle(config.augment, jax.process_count())
    if choice == "on" and why_not:
        raise ConfigError(f"data.resident 'on': {why_not}; choose auto or off")
    if choice != "auto":
        return choice == "on"
    long_enough = total_steps * config.batch_size >= len(splits.train)
    small_enough = _bytes_on_device(config, splits) <= LIMIT
    accelerator = mesh.devices.flat[0].platform != "cpu"
    return not why_not and accelerator and long_enough and small_enough


def _obstacle(augment: AugmentConfig, processes: int) -> str:
    """What speaks against it whatever the size, or ''."""
    if augment.crop not in _CROPS:
        return f"augment.crop {augment.crop!r} is done on the host, {' and '.join(_CROPS)} are not"
    for field in fields(augment):
        value = getattr(augment, field.name)
        if field.name not in _KNOWN and value != field.default:
            return f"augment.{field.name} {value!r} is done on the host"
    if processes > 1:
        return f"there are {processes} processes, and it takes a single one"
    return ""


def _margin(augment: AugmentConfig) -> int:
    return augment.pad if augment.crop == "pad" else 0


def _bytes_on_device(config: RunConfig, splits: Splits) -> int:
    size, padded = config.data.image_size, config.data.image_size + 2 * _margin(config.augment)
    train, evaluation = splits
    seen = len(train) * padded**2 * train.channels
    return seen + len(evaluation) * size**2 * evaluation.channels


def crop_params(
    count: int,
    augment: AugmentConfig,
    *,
    seed: int,
    batch_size: int,
    start: int,
    stop: int,
    order: int = 2,
    replacement: np.ndarray | None = None,
) -> Iterator[HostBatch]:
    """What the training batches of steps `start` up to `stop` are made of.

    Args:
      count: of examples in the source.
      order: `data.order`.
      replacement: the example read in place of each one; None: each is read itself.

    Yields:
      `plan` int32 [batch_size, 4] (`COLUMNS`) and, as `train_batches` does, `bad` and `retried`.
    """
    steps = max(_BLOCK // batch_size, 1)
    for first in range(start, stop, steps):
        last = min(first + steps, stop)
        positions = first * batch_size, last * batch_size
        epochs, wanted = example_indices_between(count, seed, *positions, order=order).T
        indices = wanted if replacement is None else replacement[wanted]
        plan = _crop_params(epochs, indices, augment, seed).reshape(-1, batch_size, len(COLUMNS))
        bad = np.where(indices == wanted, -1, wanted).astype(np.int32).reshape(-1, batch_size)
        for rows in zip(plan, bad, strict=True):
            yield {"plan": rows[0], "bad": rows[1], "retried": np.zeros(batch_size, np.int32)}


def _crop_params(
    epochs: np.ndarray, indices: np.ndarray, augment: AugmentConfig, seed: int
) -> np.ndarray:
    """int32 [N, 4]: what `images.train_image` draws from each example's generator."""
    key = augmentation_key(seed, epochs.astype(np.uint64), indices.astype(np.uint64))
    words = first_words(np.stack(key, axis=-1))
    plan = np.zeros((len(indices), len(COLUMNS)), np.int32)
    plan[:, 0] = indices
    if augment.crop == "pad":
        plan[:, 1:3] = pad_offsets(words[:, 0], augment.pad)
        words = words[:, 1:]
    if augment.flip:
        plan[:, 3] = words[:, 0] >> 63 == 0  # Generator.random() < 1/2
    return plan


def gather_crops(images: jax.Array, labels: jax.Array, plan: jax.Array, size: int) -> Batch:
    """The batch of a plan [B, 4], cut out of the set: to be traced.

    Args:
      images: uint8 [N, H, W, C], padded.
      labels: int32 [N].

    Returns:
      `image` uint8 [B, size, size, C], `label` int32 [B], `mask` float32 [B].
    """
    shape = (1, size, size, images.shape[-1])

    def one(row: jax.Array) -> jax.Array:
        index, top, left, mirrored = row
        view = lax.dynamic_slice(images, (index, top, left, jnp.zeros_like(top)), shape)[0]
        return jnp.where(mirrored > 0, view[:, ::-1], view)

    index = plan[:, 0]
    mask = (index >= 0).astype(jnp.float32)
    return {"image": jax.vmap(one)(plan), "label": labels[index], "mask": mask}


@dataclass(frozen=True)
class Resident:
    """A training set on the devices, each of which has the whole of it."""

    images: jax.Array
    """uint8 [N, H, W, C], with zeros around them if crops are of the padded image."""
    labels: jax.Array
    """int32 [N]."""
    replacement: np.ndarray | None
    """int64 [N]: the example in place of each one, where some could not be read."""
    size: int
    """Side of the images that the network sees."""
    mesh: Mesh

    @cached_property
    def gather_crops(self) -> Callable[[jax.Array, jax.Array, jax.Array], Batch]:
        """(images, labels, plan [B, 4]) -> the batch; B is split over the devices."""
        data = batch_sharding(self.mesh)

        def batch(images: jax.Array, labels: jax.Array, plan: jax.Array) -> Batch:
            found = gather_crops(images, labels, plan, self.size)
            return lax.with_sharding_constraint(found, data)

        return batch

    @cached_property
    def _jitted(self) -> Any:
        everywhere, data = replicated_sharding(self.mesh), batch_sharding(self.mesh)
        return jax.jit(
            self.gather_crops, in_shardings=(everywhere, everywhere, data), out_shardings=data
        )

    def put(self, batch: HostBatch) -> Batch:
        """A step's plan -> its batch on the devices, as `put_batch` would bring it there."""
        return self._jitted(self.images, self.labels, batch["plan"])


def upload(
    source: Source,
    data: DataConfig,
    augment: AugmentConfig,
    mesh: Mesh,
    *,
    report: Callable[[str], None],
    stopped: Callable[[float], bool] = never,
) -> Resident:
    """Reads a whole training set, as the host would read each example, onto the devices.

    Args:
      report, stopped: see `Feed`.

    Raises:
      BadExample: an unreadable image (`data.on_bad_image` "error"), or nothing but such.
      Stopped: `stopped` said so.
    """
    size, pad, count = data.image_size, _margin(augment), len(source)
    images = np.zeros((count, size + 2 * pad, size + 2 * pad, source.channels), np.uint8)
    labels, readable = np.zeros(count, np.int32), np.zeros(count, bool)
    whole = EvalConfig(crop_fraction=1.0)  # what a pad or no crop begins with
    batches = eval_batches(source, data, whole, batch_size=_READ)
    options: Any = {"report": report, "stopped": stopped, "what": "reading of the set, batch"}
    with Feed(batches, lambda _: None, data, **options) as feed:
        for batch, _ in feed:
            there = batch["index"] >= 0
            here = batch["index"][there]
            images[here, pad : pad + size, pad : pad + size] = batch["image"][there]
            labels[here], readable[here] = batch["label"][there], True
    put = partial(jax.device_put, device=replicated_sharding(mesh))
    return Resident(put(images), put(labels), _replacements(readable), size, mesh)


def _replacements(readable: np.ndarray) -> np.ndarray | None:
    """The next readable example, after the last the first, as `TrainReader` goes on to."""
    good = np.flatnonzero(readable)
    if not len(good):
        raise BadExample("no example of the training split can be read")
    if len(good) == len(readable):
        return None
    return good[np.searchsorted(good, np.arange(len(readable))) % len(good)]


def stacked(found: Sequence[HostBatch], room: int) -> HostBatch:
    """Plans of consecutive steps as one, `plan` int32 [room, B, 4]; what is behind them is 0."""
    first = found[0]["plan"]
    plan = np.zeros((room, *first.shape), np.int32)
    plan[: len(found)] = [each["plan"] for each in found]
    joined = {key: np.concatenate([each[key] for each in found]) for key in ("bad", "retried")}
    return {"plan": plan, **joined}
