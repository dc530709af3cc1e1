"""What a finished run or published weights are for: evaluating, and classifying images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import Preprocessing
from train.checkpoint.manager import Checkpoints
from train.checkpoint.run_weights import Weights
from train.config import DataConfig, MixConfig, RunConfig
from train.console import warn
from train.data.images.crops import Limits, eval_image
from train.data.images.crops import limits as image_limits
from train.data.images.decode import BadImage
from train.data.sources import IMAGE_SUFFIXES
from train.distributed.mesh import make_mesh, replicated_sharding
from train.learn.prepare import make_prepare
from train.learn.state import Variables
from train.learn.tasks import NO_CLASS, make_task, top_class
from train.report.metrics_file import Row
from train.run.data_changes import open_eval_data
from train.run.evaluate import evaluate_checkpoint
from train.run.parts import Run
from train.runtime import use_compilation_cache


def read_weights(config: RunConfig, workdir: Path, which: str) -> Weights:
    """The weights of a run's checkpoint ("best", "last" or a step), on all devices.

    Raises:
      ConfigError: no such checkpoint.
    """
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint, make_task(config))
    return checkpoints.restore_weights(which, replicated_sharding(make_mesh()))


def evaluate_run(config: RunConfig, workdir: Path, which: str) -> Row:
    """Evaluates a checkpoint ("best", "last" or a step).

    Returns:
      What `train.run.evaluate.evaluate_checkpoint` does.

    Raises:
      ConfigError: no such checkpoint; bad data, or data of other classes than the run's.
    """
    use_compilation_cache(config.compilation_cache)
    splits, notes = open_eval_data(workdir, config)
    run = Run(config, splits=splits)
    for note in notes:
        warn(note)
    return evaluate_checkpoint(run, read_weights(config, workdir, which))


class Prediction(NamedTuple):
    """One of the classes that an image may be of."""

    name: str
    probability: float


class Answer(NamedTuple):
    """The most probable classes of an image file, best first, or why it cannot be read."""

    path: Path
    predictions: list[Prediction]
    error: str = ""


def classify(
    model: nn.Module,
    variables: Variables,
    names: list[str],
    view: Preprocessing,
    files: Sequence[Path],
    *,
    limits: Limits | None = None,
) -> Iterator[Answer]:
    """The five most probable classes (all, if there are fewer) of each image file, in their order.

    A file is read when its turn comes. One that is missing or no image is an answer with an error.

    Equal probabilities come in the order of the labels. An image for which no class is ahead, by
    the rule of `top_class`, is named in a warning.

    Args:
      names: of the classes, by label.
      view: what is done to an image before the network sees it.
      limits: larger images are refused; None: those of `DataConfig`.
    """
    limits = limits or image_limits(DataConfig())
    prepare = make_prepare(len(names), view.mean, view.std, MixConfig())

    @jax.jit
    def look(variables: Variables, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch = prepare({"image": image, "label": jnp.zeros(1, jnp.int32)}, train=False)
        logits: Any = model.apply(variables, batch["image"], train=False)
        return jax.nn.softmax(logits)[0], top_class(logits)[0]

    variables = jax.device_put(variables)  # once, and not for every image
    for path in files:
        image = _read(path, view, limits)
        if isinstance(image, str):
            yield Answer(path, [], image)
            continue
        p, top = map(np.asarray, look(variables, image[None]))
        if top == NO_CLASS:
            warn(f"{path}: no class is ahead; the highest logits are equal, or one is NaN")
        best = np.argsort(-p, kind="stable")[:5]
        yield Answer(path, [Prediction(names[i], float(p[i])) for i in best])


def _read(path: Path, view: Preprocessing, limits: Limits) -> np.ndarray | str:
    """The image as the network sees it, or why it cannot be read."""
    try:
        if path.is_dir():
            return f"a folder without images ({', '.join(IMAGE_SUFFIXES)})"
        return eval_image(
            path.read_bytes(),
            view.size,
            view.crop_fraction,
            **limits,
            interpolation=view.interpolation,
        )
    except OSError as error:
        return error.strerror or str(error)
    except BadImage as error:
        return str(error)
