"""`models NAME --init-stats`: deviations of activations and gradients at the start."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.spec import Activation, KernelInit
from train.cli.arguments import parse
from train.config import ConfigError, ModelConfig
from train.paths import expand

if TYPE_CHECKING:
    from resnet_jax.init_stats import BlockStats

FLAGS = ("--init-stats", "--init_stats")
_COLOURS = ("#1f88cc", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("-", "--", ":", "-.")

ABOUT = """\
Standard deviations of the output of each block, and of the gradient of the loss with respect to it,
before the first step: random images from a normal distribution, random labels, the cross-entropy
summed over the images. One column for each initialiser and activation.
"""

Found = Mapping[tuple[str, str], "dict[str, BlockStats]"]
"""(initialiser, activation) -> statistics by block."""


@dataclass(frozen=True)
class InitStatsArgs:
    """Options of `models NAME --init-stats`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    schemes: tuple[KernelInit, ...] = ("small_normal", "xavier_normal", "kaiming_normal")
    """Initialisers of the convolutions. LeNet-5 has only its own, xavier_uniform."""
    activations: tuple[Activation, ...] = ("relu", "tanh")
    """Activation functions."""
    norm: bool = True
    """Whether BatchNorm normalises by the batch, as in training. False: it does nothing, and the
    initialisers decide alone."""
    image_size: int = 32
    """Side of the images in pixels."""
    images: int = 16
    """Number of images."""
    seed: int = 0
    """Seed of the images, the labels and the kernels."""
    plot: Path | None = None
    """Also draw a plot into this file (.png, .svg or .pdf)."""


def init_stats(name: str, args: list[str]) -> None:
    """Prints the table, and draws the plot if a file is named."""
    given: InitStatsArgs = parse(
        f"models {name}",
        ABOUT,
        InitStatsArgs,
        InitStatsArgs(ModelConfig(name=name)),
        args,
        usage="models NAME --init-stats",
    )
    for option in ("image_size", "images"):
        if getattr(given, option) < 1:
            raise ConfigError(f"--{option} {getattr(given, option)}: must be at least 1")
    if given.plot and not expand(given.plot).absolute().parent.is_dir():
        raise ConfigError(f"--plot {given.plot}: the directory does not exist")
    found = measure(given)
    _print(given, found)
    if given.plot:
        _draw(given, found, expand(given.plot))
        print(f"plot: {given.plot}")


def measure(given: InitStatsArgs) -> Found:
    """The statistics by initialiser and activation.

    Raises:
      ConfigError: the network cannot take images of this size, or its norm does not depend on the
        batch and `norm` is False.
    """
    import jax

    from resnet_jax import create_model
    from resnet_jax.init_stats import init_stats
    from train.learn.state import init_variables
    from train.runtime import use_compilation_cache

    use_compilation_cache(None)
    changes = given.model.changes
    if not given.norm and changes.get("norm", "batch") != "batch":
        raise ConfigError(f"--norm False: model.norm {changes['norm']} cannot be turned off")
    keys = jax.random.split(jax.random.key(given.seed))
    images = jax.random.normal(keys[0], (given.images, given.image_size, given.image_size, 3))
    labels = jax.random.randint(keys[1], (given.images,), 0, 10)
    found: dict[tuple[str, str], dict[str, BlockStats]] = {}
    for activation in given.activations:
        for scheme in _schemes(given):
            options: dict[str, Any] = {**changes, "activation": activation}
            if given.model.name != "lenet5":
                options["kernel_init"] = scheme
            try:
                model = create_model(given.model.name, 10, **options)
                variables = init_variables(model, given.image_size, given.seed)
                stats = init_stats(model, variables, images, labels, train=given.norm)
            except ValueError as error:
                raise ConfigError(
                    f"{given.model.name} at --image_size {given.image_size}: {error}"
                ) from None
            found[scheme, activation] = stats
    return found


def _schemes(given: InitStatsArgs) -> tuple[str, ...]:
    return ("xavier_uniform",) if given.model.name == "lenet5" else given.schemes


def _print(given: InitStatsArgs, found: Found) -> None:
    from rich.table import Table

    from train.console import table_console

    title = f"{given.model.name} at the start, {given.images} images of {given.image_size} pixels"
    table = Table("block", *(f"{scheme}\n{activation}" for scheme, activation in found))
    table.title = title + ("" if given.norm else ", norms do nothing")
    for column in table.columns[1:]:
        column.justify = "right"
    for block in next(iter(found.values())):
        cells = (each[block] for each in found.values())
        table.add_row(block, *(f"{c.activation:.3g}\n{c.gradient:.2g}" for c in cells))
    console = table_console()
    console.print(table)
    console.print("above: standard deviation of the block's output; below: of its gradient")


def _draw(given: InitStatsArgs, found: Found, file: Path) -> None:
    import matplotlib.style
    from matplotlib.figure import Figure

    from train.report.curves import STYLE

    schemes = list(dict.fromkeys(scheme for scheme, _ in found))
    blocks = list(next(iter(found.values())))
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        for axes, what in zip(figure.subplots(1, 2), ("activation", "gradient"), strict=True):
            for (scheme, activation), stats in found.items():
                axes.plot(
                    range(1, len(blocks) + 1),
                    [getattr(stats[block], what) or float("nan") for block in blocks],
                    color=_COLOURS[schemes.index(scheme) % len(_COLOURS)],
                    linestyle=_DASHES[given.activations.index(activation) % len(_DASHES)],
                    marker=".",
                    label=f"{scheme}, {activation}",
                )
            axes.set(yscale="log", xlabel="block", title=f"standard deviation of the {what}")
        axes.legend(fontsize="small")
        norms = "" if given.norm else ", norms do nothing"
        figure.suptitle(f"{given.model.name} at the start{norms}")
        try:
            figure.savefig(file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--plot {file}: {error}") from None
