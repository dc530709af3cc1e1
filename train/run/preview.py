"""What the network sees: training images in several draws, beside the view of evaluation.

Everything comes from the parts of a run: the host's reader crops and augments, `Run.prepare`
normalises, erases and mixes on the device. Only the batch is another one: it has the shown images.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from train.config import ConfigError
from train.data.order import examples_at
from train.data.readers import EvalReader, TrainReader
from train.distributed.mesh import Batch
from train.learn.step import input_key, step_key
from train.report.preview import Seen, View
from train.run.checks import check_input
from train.run.parts import Run
from train.run.pixels import measured

_POSITIONS = 8
"""Positions of the training stream that are searched for each image: some images may repeat."""


def views(run: Run, *, images: int, draws: int) -> list[Seen]:
    """The first images of the training stream, in one draw for each of the first epochs.

    They are one batch: where examples are mixed, the partner of an image is the one before it.

    Args:
      images: number of images; fewer if the training split has fewer.
      draws: number of epochs.

    Raises:
      ConfigError: an image is unreadable, or examples are mixed and there is only one image; see
        `check_input`.
    """
    check_input(run)
    config, source = run.config, run.splits.train
    data = replace(config.data, decoder="cpu")  # with which DALI's crops agree
    reader = TrainReader(source, data, config.augment, config.seed)
    positions = np.arange(_POSITIONS * min(images, len(source)))
    stream = examples_at(len(source), config.seed, positions, order=data.order, balance=run.balance)
    chosen = list(dict.fromkeys(stream[:, 1].tolist()))[:images]
    if len(chosen) < 2 and config.mix.mixes:
        raise ConfigError("mixup and CutMix need at least 2 images: choose more with --images")
    if config.data.measures:
        run.use(*measured(run))
    prepare = jax.jit(run.prepare, static_argnames="train")
    show = run.normalisation.pixels

    def shown(batch: Batch) -> list[View]:
        pixels, target = (np.asarray(x) for x in (show(batch["image"]), batch["target"]))
        return [View(*each) for each in zip(pixels, target, strict=True)]

    centred = EvalReader(source, data, config.eval)
    evaluation = shown(prepare(_batch(centred, [(0, i, 0) for i in chosen]), train=False))
    trained = []
    for epoch in range(draws):
        batch = _batch(reader, [(epoch, i, 0) for i in chosen])
        key = input_key(step_key(config.seed, epoch))
        trained.append(shown(prepare(batch, train=True, key=key, step=epoch)))
    return [
        Seen(source.name(i), evaluation[k], [draw[k] for draw in trained])
        for k, i in enumerate(chosen)
    ]


def _batch(reader: TrainReader | EvalReader, examples: list[tuple[int, ...]]) -> Batch:
    """The examples (epoch, index, copy), read by a reader, as a batch."""
    size, channels = reader.data.image_size, reader.source.channels
    images = np.empty((len(examples), size, size, channels), np.uint8)
    labels = [reader(each, out).label for each, out in zip(examples, images, strict=True)]
    return {"image": jnp.asarray(images), "label": jnp.asarray(np.array(labels))}
