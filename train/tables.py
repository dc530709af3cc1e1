"""The tables of `resnet-jax models` and `resnet-jax recipes`."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resnet_jax.summary import Layer, groups, summarise, totals
from resnet_jax.zoo import ZOO
from train.recipes import modules

if TYPE_CHECKING:
    from train.inference import Guess


def _console() -> Console:
    """As wide as the terminal, and wide enough for a whole row where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=120, highlight=False)


def _classes(name: str) -> int:
    return 1000 if ZOO[name].stem_pool else 10


def print_models(names: list[str]) -> None:
    """Name, size of the images, parameters and FLOPs of each network."""
    table = Table("model", "image", "classes", "parameters", "GFLOPs", "source")
    for column in table.columns[1:5]:
        column.justify = "right"
    for name in names:
        parameters, multiply_adds, _ = totals(summarise(ZOO[name], _classes(name)))
        table.add_row(
            name,
            str(ZOO[name].image_size),
            str(_classes(name)),
            f"{parameters:,}",
            f"{multiply_adds / 1e9:.3f}",
            _source(name),
        )
    console = _console()
    console.print(table)
    console.print(
        "FLOPs are multiply-adds of convolutions and the head for one image, as in the papers."
    )


def _source(name: str) -> str:
    spec = ZOO[name]
    if spec.shortcut == "none":
        return "He 2016a, plain"
    if spec.preact:
        return "He 2016b"
    if spec.avg_down:
        return "He 2019, D"
    if spec.stem == "deep":
        return "He 2019, C"
    if spec.block == "bottleneck" and spec.stride_at == "3x3":
        return "He 2019, B"
    return "He 2016a"


def print_model(name: str) -> None:
    """One network as the papers draw it: block by block, each with its layers and their repeats."""
    layers = summarise(ZOO[name], _classes(name))
    table = Table(
        "block", "layers", "output", "parameters", "MFLOPs", "BatchNorm state", title=name
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for block, members in groups(layers):
        parameters, multiply_adds, statistics = totals(members)
        table.add_row(
            _range(block, members[0].repeats),
            "\n".join(_lines(members)),
            " x ".join(map(str, members[-1].output)),
            f"{parameters:,}",
            f"{multiply_adds / 1e6:.1f}",
            f"{statistics:,}",
            end_section=True,
        )
    parameters, multiply_adds, statistics = totals(layers)
    total = (f"{parameters:,}", f"{multiply_adds / 1e6:.1f}", f"{statistics:,}")
    table.add_row("total", "", "", *total)
    _console().print(table)


def _range(block: str, repeats: int) -> str:
    """The name of a block and the ones like it: "stage1/block2", "stage1/block2..3"."""
    return block + (f"..{repeats + 1}" if repeats > 1 else "")


def _lines(members: list[Layer]) -> list[str]:
    """One line a convolution with the norm behind it (or, in v2, one for the norm before it)."""
    lines: list[str] = []
    for layer in members:
        if layer.kind == "dense":
            lines.append(f"average pool, dense {layer.output[-1]}")
        elif layer.kind != "norm":
            mark = " (shortcut)" if "shortcut" in layer.path else ""
            lines.append(f"{layer.kind}, {layer.output[-1]}{mark}")
        elif lines and not lines[-1].endswith("norm"):
            lines[-1] += ", norm"
        else:
            lines.append("norm")
    return lines


def print_guesses(guesses: "Mapping[Path, Sequence[Guess]]") -> None:
    """Images and their most probable classes, one image a row."""
    table = Table("image", *(f"top-{k}" for k in range(1, 1 + max(map(len, guesses.values())))))
    table.columns[0].overflow = "fold"
    for path, best in guesses.items():
        cells = (str(path), *(f"{guess.name} {guess.probability:.1%}" for guess in best))
        table.add_row(*map(Text, cells))  # a class may be called "[red]"
    _console().print(table)


def print_recipes() -> None:
    """Every recipe with its model, data and length, under what its module says of it."""
    console = _console()
    for module in modules():
        console.print(inspect.getdoc(module), markup=False, highlight=False)
        table = Table("recipe", "model", "data", "duration", "batch", "precision")
        for name, c in module.RECIPES.items():
            table.add_row(
                name, c.model.name, c.data.name, c.duration, str(c.batch_size), c.precision
            )
        console.print(table)
        console.print()
