"""What a finished run or published weights are for: evaluating, and classifying images."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import Preprocessing
from train.checkpoint import Checkpoints, Weights
from train.compilation_cache import use_compilation_cache
from train.config import ConfigError, DataConfig, MixConfig, RunConfig
from train.data.images import BadImage, eval_image
from train.evaluate import judge
from train.mesh import make_mesh, replicated
from train.metrics import Row
from train.prepare import make_prepare
from train.run import Run, check_data, make_model, read_class_names
from train.state import Variables
from train.weights import of_run


def read_weights(config: RunConfig, workdir: Path, which: str) -> Weights:
    """The weights of a run's checkpoint ("best", "last" or a step), on all devices.

    Raises:
      ConfigError: no such checkpoint.
    """
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint)
    return checkpoints.restore_weights(which, replicated(make_mesh()))


def evaluate_run(config: RunConfig, workdir: Path, which: str) -> Row:
    """Evaluates a checkpoint ("best", "last" or a step).

    Returns:
      What `train.evaluate.judge` does.

    Raises:
      ConfigError: no such checkpoint; bad data, or data of other classes than the run's.
    """
    use_compilation_cache(config.compilation_cache)
    run = Run(config)
    check_data(workdir, run, same_size=False)
    return judge(run, read_weights(config, workdir, which))


class Guess(NamedTuple):
    """One of the classes that an image may be of."""

    name: str
    probability: float


def predict(
    config: RunConfig, workdir: Path, which: str, files: list[Path]
) -> dict[Path, list[Guess]]:
    """What a run's checkpoint makes of each image file, as `classify` says it.

    Raises:
      ConfigError: no such checkpoint; a file that is missing or no image (none is classified then).
    """
    use_compilation_cache(config.compilation_cache)
    names = read_class_names(workdir)
    variables = read_weights(config, workdir, which).variables
    model = make_model(config, len(names))
    max_pixels = config.data.max_pixels
    return classify(model, variables, names, of_run(config), files, max_pixels=max_pixels)


def classify(
    model: nn.Module,
    variables: Variables,
    names: list[str],
    view: Preprocessing,
    files: list[Path],
    *,
    max_pixels: int = DataConfig.max_pixels,
) -> dict[Path, list[Guess]]:
    """The five most probable classes (all, if there are fewer) of each image file, best first.

    Args:
      names: of the classes, by label.
      view: what is done to an image before the network sees it.
      max_pixels: larger images are refused.

    Raises:
      ConfigError: a file that is missing or no image (none is classified then).
    """
    images = {path: _read(path, view, max_pixels) for path in files}
    prepare = make_prepare(len(names), view.mean, view.std, MixConfig())

    @jax.jit
    def probabilities(variables: Variables, image: jax.Array) -> jax.Array:
        batch = prepare({"image": image, "label": jnp.zeros(1, jnp.int32)}, train=False)
        logits: Any = model.apply(variables, batch["image"], train=False)
        return jax.nn.softmax(logits)[0]

    variables = jax.device_put(variables)  # once, and not for every image
    guesses = {}
    for path, image in images.items():
        p = np.asarray(probabilities(variables, image[None]))
        best = np.argsort(-p, kind="stable")[:5]
        guesses[path] = [Guess(names[i], float(p[i])) for i in best]
    return guesses


def _read(path: Path, view: Preprocessing, max_pixels: int) -> np.ndarray:
    try:
        return eval_image(
            path.read_bytes(),
            view.size,
            view.crop_fraction,
            max_pixels=max_pixels,
            interpolation=view.interpolation,
        )
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except BadImage as error:
        raise ConfigError(f"{path}: {error}") from None


def write_csv(guesses: dict[Path, list[Guess]], target: Path) -> None:
    """image, rank, class, probability: one row for each guess.

    Raises:
      ConfigError: the file cannot be written.
    """
    try:
        with target.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "rank", "class", "probability"])
            for path, best in guesses.items():
                for rank, (name, p) in enumerate(best, start=1):
                    writer.writerow([path, rank, name, f"{p:.6f}"])
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}") from None
