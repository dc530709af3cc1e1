"""The tables of `resnet-jax models` and `resnet-jax recipes`."""

import difflib
import inspect
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from resnet_jax.spec import LeNetSpec, ResNetSpec
from resnet_jax.zoo import ZOO, image_size, num_classes
from train.config import RunConfig
from train.config.effects import changes, shown
from train.config.serialize import flatten, to_json
from train.console import table_console
from train.recipes import describe, modules

if TYPE_CHECKING:
    from resnet_jax import Preprocessing
    from resnet_jax.summary import Layer
    from train.recipes.base import Recipe


def _layers(name: str) -> "list[Layer]":
    from resnet_jax.summary import summarise

    return summarise(ZOO[name], num_classes(name), image_size(name))


def count(name: str) -> list[int]:
    """Parameters and multiply-adds of a network, counted from its layers."""
    from resnet_jax.summary import totals

    return list(totals(_layers(name))[:2])


def _counts() -> dict[str, list[int]]:
    """`count` of all networks, from a file: counting them takes 10 seconds."""
    text = resources.files(__package__).joinpath("networks.json").read_text("utf-8")
    return dict(json.loads(text))


def near_models(name: str) -> list[str]:
    """Up to three networks whose names are similar to a name or pattern.

    >>> near_models("resnet5O")[0]
    'resnet50'
    """
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    known = {re.sub(r"[^a-z0-9]", "", model): model for model in reversed(ZOO)}
    begins = [model for key, model in known.items() if plain and key.startswith(plain)]
    close = difflib.get_close_matches(plain, known, n=3, cutoff=0.6)
    return sorted(begins, key=len)[:3] or [known[key] for key in close]


def print_models(names: list[str]) -> None:
    """Prints name, image size, classes, parameters and FLOPs of each network."""
    table = Table("model", "image", "classes", "parameters", "GFLOPs", "source")
    for column in table.columns[1:5]:
        column.justify = "right"
    counts = _counts()
    for name in names:
        parameters, multiply_adds = counts.get(name) or count(name)
        table.add_row(
            name,
            str(image_size(name)),
            str(num_classes(name)),
            f"{parameters:,}",
            f"{multiply_adds / 1e9:.3f}",
            _source(name),
        )
    console = table_console()
    console.print(table)
    console.print(
        "FLOPs are multiply-adds of convolutions and the head for one image, as in the papers."
    )


def _source(name: str) -> str:
    """The paper of the network, or of each part in which it differs from a plain ResNet."""
    spec = ZOO[name]
    if isinstance(spec, LeNetSpec):
        return "LeCun 1998"
    whole = {
        "He 2016a, plain": spec.shortcut == "none",
        "Kolesnikov 2020": spec.weight_standardization,
        "Bello 2021": spec.stem_pool == "conv",
        "Hu 2018": spec.reduce_first > 1,  # SENet-154
        "timm": bool(spec.stage_blocks),
    }
    for source, applies in whole.items():
        if applies:
            return source
    parts = {
        "He 2016b": spec.preact and not _is_wide(spec),
        "Xie 2017": spec.groups > 1,
        "Zagoruyko 2016": _is_wide(spec),
        "Hu 2018": spec.attention == "se",
        "Wang 2020": spec.attention == "eca",
        "Zhang 2019": spec.anti_alias != "none",
        "Wu 2018": spec.norm == "group",
        "timm": spec.stem == "tiered" or (spec.stem == "deep" and spec.stem_width is not None),
        "He 2019, D": spec.avg_down and spec.stem != "tiered",
        "He 2019, C": spec.stem == "deep" and spec.stem_width is None and not spec.avg_down,
    }
    v1 = spec.block == "basic" or spec.stride_at == "1x1"
    plain = "He 2016a" if v1 or spec.image_size == 32 else "He 2019, B"
    return "; ".join(source for source, used in parts.items() if used) or plain


def _is_wide(spec: ResNetSpec) -> bool:
    """Whether 3x3 convolutions of bottlenecks, or for 32x32 images all stages, are widened."""
    wider = spec.image_size == 32 and spec.stem_features < spec.width
    return wider or (spec.groups == 1 and spec.group_width > 64)


def print_model(name: str) -> None:
    """Prints a network block by block, as in the papers; equal blocks share a row."""
    from resnet_jax.summary import groups, totals

    layers = _layers(name)
    table = Table(
        "block", "layers", "output", "parameters", "MFLOPs", "BatchNorm state", title=name
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for block, members in groups(layers):
        parameters, multiply_adds, statistics = totals(members)
        maps = [layer.output for layer in members if "/se/" not in layer.path]
        table.add_row(
            _range(block, members[0].repeats),
            "\n".join(_lines(members)),
            " x ".join(map(str, maps[-1])),
            f"{parameters:,}",
            f"{multiply_adds / 1e6:.1f}",
            f"{statistics:,}",
            end_section=True,
        )
    parameters, multiply_adds, statistics = totals(layers)
    total = (f"{parameters:,}", f"{multiply_adds / 1e6:.1f}", f"{statistics:,}")
    table.add_row("total", "", "", *total)
    table_console().print(table)


def _range(block: str, repeats: int) -> str:
    """Name of a row of equal blocks: "stage1/block2", "stage1/block2..3"."""
    return block + (f"..{repeats + 1}" if repeats > 1 else "")


def _lines(members: "list[Layer]") -> list[str]:
    """One line for a convolution and the norm after it; in v2, a line for the norm before it."""
    lines: list[str] = []
    for layer in members:
        if "/se/" in layer.path:
            if layer.path.endswith("fc1"):
                lines[-1] += f", squeeze-excite {layer.output[-1]}"
        elif layer.kind == "attention":
            lines[-1] += f", channel attention {layer.parameters}"
        elif layer.kind == "dense":
            lines.append(f"average pool, dense {layer.output[-1]}")
        elif layer.kind != "norm":
            mark = " (shortcut)" if "shortcut" in layer.path else ""
            lines.append(f"{layer.kind}, {layer.output[-1]}{mark}")
        elif lines and not lines[-1].endswith("norm"):
            lines[-1] += ", norm"
        else:
            lines.append("norm")
    return lines


def print_preprocessing(given: "Preprocessing", measured: str = "") -> None:
    """Prints what is done to an image before the network sees it, on one line.

    Args:
      measured: in words, a mean image or whitening in place of mean and std.
    """
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (given.mean, given.std))
    print(
        f"images: {given.size} pixels, crop_fraction {given.crop_fraction:g}, "
        f"{given.interpolation}, {measured or f'mean {mean}, std {std}'}"
    )


def print_recipes() -> None:
    """Prints a table of the recipes of each module, under the first line of its docstring."""
    console = table_console()
    for module in modules():
        title = str(inspect.getdoc(module)).partition("\n")[0]
        console.print(title, markup=False)
        table = Table("recipe", "network", "data", "duration", "batch", "expected", "measured")
        table.columns[0].no_wrap = table.columns[1].no_wrap = True
        for name, recipe in module.RECIPES.items():
            config = recipe.config
            table.add_row(
                *(name, config.model.name, config.data.name, config.duration),
                *(str(config.batch_size), recipe.expected, recipe.measured),
            )
        console.print(table)
        console.print()
    console.print("`resnet-jax recipes NAME`: source, notes and options of one of them.")


def print_recipe(name: str) -> None:
    """Prints what is known about a recipe, what differs from its parent, and all of its options.

    Raises:
      ConfigError: there is no such recipe.
    """
    recipe = describe(name)
    console = table_console()
    (module,) = [module for module in modules() if name in module.RECIPES]
    console.print(inspect.getdoc(module), markup=False)
    console.print()
    about = Table(title=name, show_header=False)
    for key in ("command", "source", "hardware", "expected", "measured", "notes"):
        if value := getattr(recipe, key):
            about.add_row(key, escape(value))
    console.print(about)
    parent = recipe.parent.config if recipe.parent else RunConfig()
    other = recipe.parent.name if recipe.parent else "defaults"
    before, now = flatten(to_json(parent)), flatten(to_json(recipe.config))
    console.print(f"What differs from {_parents(recipe)}:")
    table = Table("option", other, name)
    for option in changes(recipe.config, parent):
        if option != "recipe":
            table.add_row(option, _value(before, option), _value(now, option))
    console.print(table)
    console.print("All options:")
    table = Table("option", "value")
    for option in now:
        table.add_row(option, _value(now, option))
    console.print(table)


def _parents(recipe: "Recipe") -> str:
    """The parent, and its parents: "rsb-a1 (from imagenet-resnet50)"."""
    names = []
    while recipe.parent:
        recipe = recipe.parent
        names.append(recipe.name)
    first, *rest = names or ["the defaults"]
    return first + (f" (from {', '.join(rest)})" if rest else "")


def _value(options: Mapping[str, Any], name: str) -> str:
    """An option's value as a user would type it; that of an option of the network may be unset."""
    return escape(shown(options[name])) if name in options else "as the network's name says"
