"""What a finished run is for: evaluating it, and classifying images with it."""

import csv
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.checkpoint import Checkpoints, Weights
from train.config import ConfigError, RunConfig
from train.data.images import BadImage, eval_image
from train.evaluate import judge
from train.mesh import make_mesh, replicated
from train.metrics import Row
from train.prepare import make_prepare
from train.run import Run, check_data, make_model, read_class_names, use_compilation_cache


def _weights(config: RunConfig, workdir: Path, which: str) -> Weights:
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
    return judge(run, _weights(config, workdir, which))


class Guess(NamedTuple):
    """One of the classes that an image may be of."""

    name: str
    probability: float


def predict(
    config: RunConfig, workdir: Path, which: str, files: list[Path]
) -> dict[Path, list[Guess]]:
    """The five most probable classes (all, if there are fewer) of each image file, best first.

    Raises:
      ConfigError: no such checkpoint; a file that is missing or no image (none is classified then).
    """
    use_compilation_cache(config.compilation_cache)
    data, names = config.data, read_class_names(workdir)
    variables = _weights(config, workdir, which).variables
    model = make_model(config, len(names))
    prepare = make_prepare(len(names), data.mean, data.std, config.mix)

    @jax.jit
    def probabilities(image: jax.Array) -> jax.Array:
        batch = prepare({"image": image, "label": jnp.zeros(1, jnp.int32)}, train=False)
        return jax.nn.softmax(model.apply(variables, batch["image"], train=False))[0]

    guesses = {}
    for path, image in [(path, _read(path, config)) for path in files]:
        p = np.asarray(probabilities(image[None]))
        best = np.argsort(-p, kind="stable")[:5]
        guesses[path] = [Guess(names[i], float(p[i])) for i in best]
    return guesses


def _read(path: Path, config: RunConfig) -> np.ndarray:
    data = config.data
    try:
        return eval_image(
            path.read_bytes(),
            data.image_size,
            config.eval.crop_fraction,
            max_pixels=data.max_pixels,
        )
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except BadImage as error:
        raise ConfigError(f"{path}: {error}") from None


def write_csv(guesses: dict[Path, list[Guess]], target: Path) -> None:
    """image, rank, class, probability: one row for each guess."""
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "rank", "class", "probability"])
        for path, best in guesses.items():
            for rank, (name, p) in enumerate(best, start=1):
                writer.writerow([path, rank, name, f"{p:.6f}"])
