"""Classes of image files, from a network and its weights."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import Preprocessing
from train.config import DataConfig, MixConfig
from train.console import warn
from train.data.images.crops import Limits, eval_image
from train.data.images.crops import limits as image_limits
from train.data.images.decode import BadImage
from train.data.sources import IMAGE_SUFFIXES
from train.learn.prepare import Normalisation, make_prepare
from train.learn.state import Variables
from train.learn.tasks import NO_CLASS, top_class


class Prediction(NamedTuple):
    """A class, and the probability that the image belongs to it."""

    name: str
    probability: float


class Answer(NamedTuple):
    """The most probable classes of an image file, best first, or the error of a file that cannot
    be read.
    """

    path: Path
    predictions: list[Prediction]
    error: str = ""


def classify(
    model: nn.Module,
    variables: Variables,
    names: list[str],
    preprocessing: Preprocessing,
    files: Sequence[Path],
    *,
    limits: Limits | None = None,
    multi_label: bool = False,
    normalisation: Normalisation | None = None,
) -> Iterator[Answer]:
    """Yields the five most probable classes (all, if there are fewer) of each image file, in order.

    Files are read one at a time. A file that is missing or is not an image gives an answer with an
    error.

    Equal probabilities are in the order of the labels. If `top_class` finds no single best class
    for an image, a warning names the image.

    Args:
      names: name of each class, by label.
      preprocessing: what is done to an image before the network sees it.
      limits: larger images give an error; None: the limits of `DataConfig`.
      multi_label: the probability of each class is its own, and they do not add up to 1.
      normalisation: in place of the mean and std of `preprocessing`.
    """
    limits = limits or image_limits(DataConfig())
    mean, std, matrix = normalisation or Normalisation(preprocessing.mean, preprocessing.std)
    prepare = make_prepare(len(names), mean, std, MixConfig(), matrix=matrix)

    @jax.jit
    def probabilities(variables: Variables, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch = prepare({"image": image, "label": jnp.zeros(1, jnp.int32)}, train=False)
        logits: Any = model.apply(variables, batch["image"], train=False)
        if multi_label:  # several classes may be the best
            broken = jnp.isnan(logits).any(-1)
            return jax.nn.sigmoid(logits)[0], jnp.where(broken, NO_CLASS, 0)[0]
        return jax.nn.softmax(logits)[0], top_class(logits)[0]

    variables = jax.device_put(variables)  # once, not for every image
    for path in files:
        image = _read(path, preprocessing, limits)
        if isinstance(image, str):
            yield Answer(path, [], image)
            continue
        p, top = map(np.asarray, probabilities(variables, image[None]))
        if top == NO_CLASS:
            warn(f"{path}: no single best class: the highest logits are equal, or a logit is NaN")
        best = np.argsort(-p, kind="stable")[:5]
        yield Answer(path, [Prediction(names[i], float(p[i])) for i in best])


def _read(path: Path, preprocessing: Preprocessing, limits: Limits) -> np.ndarray | str:
    """The image as the network sees it, or the error."""
    try:
        if path.is_dir():
            return f"a folder without images ({', '.join(IMAGE_SUFFIXES)})"
        return eval_image(
            path.read_bytes(),
            preprocessing.size,
            preprocessing.crop_fraction,
            **limits,
            interpolation=preprocessing.interpolation,
        )
    except OSError as error:
        return error.strerror or str(error)
    except BadImage as error:
        return str(error)
