"""Every option of every config dataclass changes something.

`CHANGES` names, for each field, another value and the observation that tells it from the default;
`test_no_option_is_missing` keeps the table complete.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from resnet_jax.spec import ResNetSpec
from tests.observations import (
    batch,
    cache,
    changed,
    ended,
    growing,
    home,
    keeping,
    keys,
    layout,
    leaves,
    listed,
    names,
    network,
    numbered,
    objective,
    outcome,
    patience,
    processes,
    reading,
    recipe,
    rereading,
    several,
    stalling,
    start,
    steps,
    third_split,
    together,
    updates,
)
from tests.runs import tiny
from train.config import ModelConfig, RunConfig
from train.config.serialize import to_json

SHORT = {"duration": "4st", "log_every": "2st", "eval.every": "2st"}
SYNTHETIC = {"data.name": "synthetic", "data.examples": 40, "data.classes": 7}
BOTTLENECK = {"model.block": "bottleneck"}
OPEN = {"model.zero_gamma": False}  # branches that are not zero at first
MESH = {"mesh.coordinator": "localhost:1", "mesh.processes": 2, "mesh.process_id": 0}
CROP = {"augment.crop": "random_resized"}
COLOURS = {**SYNTHETIC, "data.mean": (0.5,), "data.std": (0.5,)}
ADAM = {"optim.name": "adamw"}
STEP = {"optim.schedule": "step"}
MIXUP = {"mix.mixup": 0.2}
BCE = {"loss.name": "bce"}
ERASING = {"mix.erasing": 1.0}
GROWING = {"augment.size_start": 4, "duration": "9ep", "augment.size_step": 2}
HOLD = {"optim.hold": "50%", "optim.floor": 0.01}

# field: (the other value, the observation, what both sides are set to besides)
CHANGES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "recipe": ("mine", recipe, SHORT),
    "duration": ("30st", updates, {}),
    "batch_size": (64, batch, {}),
    "seed": (1, steps, {}),
    "precision": ("fp16", steps, {}),
    "ema_decay": (0.9, steps, {}),
    "ema_every": ("2st", steps, {"ema_decay": 0.9}),
    "ema_rule": ("torchvision", steps, {"ema_decay": 0.9}),
    "swa_start": ("1st", steps, {}),
    "norm_group_size": (4, steps, {}),
    "scan": (True, network, {"model.depths": (4,)}),
    "skip_nonfinite": (2, patience, {**SHORT, "optim.lr": 1e30, "model.zero_gamma": False}),
    "patience": (1, leaves, {**SHORT, "duration": "8st", "optim.lr": 1e-9}),
    "log_every": ("4st", leaves, SHORT),
    "compilation_cache": ("there", cache, SHORT),
    "model.depths": ((1, 2), network, {}),
    "model.block": ("bottleneck", network, {}),
    "model.stage_blocks": (("basic", "bottleneck"), network, {}),
    "model.width": (16, network, {}),
    "model.stage_widths": ((8, 12), network, {}),
    "model.groups": (2, network, BOTTLENECK),
    "model.group_width": (128, network, BOTTLENECK),
    "model.reduce_first": (2, network, {}),
    "model.stem": ("deep", network, {}),
    "model.stem_width": (16, network, {"model.shortcut": "B"}),
    "model.stem_pool": ("max", network, {}),
    "model.stride_at": ("1x1", network, BOTTLENECK),
    "model.shortcut": ("B", network, {}),
    "model.shortcut_kernel": (3, network, {"model.shortcut": "B"}),
    "model.avg_down": (True, network, {"model.shortcut": "B"}),
    "model.anti_alias": ("blur", network, {}),
    "model.preact": (True, network, {}),
    "model.activation": ("tanh", network, {}),
    "model.activation_slope": (0.5, network, {"model.activation": "leaky_relu"}),
    "model.attention": ("se", network, {}),
    "model.se_ratio": (0.5, network, {"model.attention": "se", "model.width": 32}),
    "model.norm": ("group", network, {"model.norm_groups": 4}),
    "model.norm_groups": (4, network, {"model.norm": "group", "model.norm_groups": 2}),
    "model.weight_standardization": (True, network, {}),
    "model.output_stride": (8, network, {"model.depths": (1, 1, 1, 1, 1)}),
    "model.zero_gamma": (False, network, {}),
    "model.kernel_init": ("xavier_uniform", network, {}),
    "model.kernel_fan": ("in", network, {}),
    "model.kernel_slope": (0.5, network, {}),
    "model.kernel_std": (0.5, network, {"model.kernel_init": "normal"}),
    "model.zero_conv": (True, network, OPEN),
    "model.norm_bias": (0.5, network, {}),
    "model.head_std": (0.5, network, {}),
    "model.head_bias": (0.5, network, {}),
    "model.norm_momentum": (0.5, network, {}),
    "model.norm_epsilon": (0.1, network, {}),
    "model.drop_path": (0.9, network, OPEN),
    "model.drop_block": (0.5, network, OPEN),
    "model.drop_block_size": (3, network, {**OPEN, "model.drop_block": 0.5}),
    "model.block_dropout": (0.5, network, OPEN),
    "model.dropout": (0.5, network, {}),
    "model.drop_connect": (0.5, network, {}),
    "model.name": ("resnet18", network, {"model.width": None}),
    "init.weights": ("given", start, {}),
    "init.head": ("keep", start, {"init.weights": "given"}),
    "data.name": ("synthetic", names, {}),
    "data.dir": ("/nowhere", outcome, {"data.name": "cifar10"}),
    "data.train_split": ("other", outcome, {}),
    "data.eval_split": ("other", outcome, {}),
    "data.test_split": ("test", third_split, {}),
    "data.image_key": ("photo", keys, {}),
    "data.label_key": ("kind", keys, {}),
    "data.multi_label": (True, several, BCE),
    "data.remap_labels": (True, numbered, {}),
    "data.eval_fraction": (0.5, names, {}),
    "data.split_seed": (1, batch, {}),
    "data.held_out": ("by_place", batch, {}),
    "data.balance": ("inverse", batch, {}),
    "data.order": (1, batch, {}),
    "data.listing": (1, listed, {"data.eval_fraction": 0.5}),
    "data.image_size": (12, batch, {}),
    "data.mean": ((0.5,), steps, {}),
    "data.std": ((0.5,), steps, {}),
    "data.whiten": ("zca", steps, {}),
    "data.whiten_epsilon": (0.5, steps, {"data.whiten": "pca"}),
    "data.on_bad_image": ("skip", outcome, {}),
    "data.max_pixels": (10, outcome, {}),
    "data.max_image_bytes": (10, outcome, {}),
    "data.threads": (2, reading, {}),
    "data.workers": (1, reading, {}),
    "data.prefetch": (3, reading, {"data.threads": 2}),
    "data.decoder": ("dali", outcome, {}),
    "data.resident": ("on", home, {}),
    "data.retries": (0, rereading, {"data.retries": 1}),
    "data.stall_seconds": (0.05, stalling, {}),
    "data.examples": (50, names, SYNTHETIC),
    "data.classes": (5, names, SYNTHETIC),
    "augment.crop": ("none", batch, {}),
    "augment.area": ((0.1, 0.2), batch, CROP),
    "augment.aspect": ((3.0, 4.0), batch, CROP),
    "augment.pad": (3, batch, {}),
    "augment.flip": (True, batch, {}),
    "augment.vertical_flip": (True, batch, {}),
    "augment.scale": ((9, 12), batch, {}),
    "augment.pad_mode": ("reflect", batch, {}),
    "augment.interpolation": ("bicubic", batch, CROP),
    "augment.rotate": (30.0, batch, {}),
    "augment.translate": (0.5, batch, {}),
    "augment.shear": (30.0, batch, {}),
    "augment.zoom": ((0.5, 0.6), batch, {}),
    "augment.policy": ("ta_wide", batch, {}),
    "augment.fill": ((9,), batch, {"augment.rotate": 30.0}),
    "augment.jitter": ((0.4, 0.0, 0.0, 0.0), batch, {}),
    "augment.grey": (0.5, batch, COLOURS),
    "augment.blur": (0.5, batch, {}),
    "augment.blur_sigma": ((1.0, 1.5), batch, {"augment.blur": 0.5}),
    "augment.lighting": (0.1, batch, COLOURS),
    "augment.repeats": (2, batch, {}),
    "augment.size_start": (4, growing, {}),
    "augment.size_ramp": (("1ep", "2ep"), growing, GROWING),
    "augment.size_step": (1, growing, GROWING),
    "mix.label_smoothing": (0.1, steps, {}),
    "mix.smooth_over": ("others", steps, {"mix.label_smoothing": 0.5}),
    "mix.mixup": (0.2, steps, {}),
    "mix.cutmix": (1.0, steps, {}),
    "mix.probability": (0.0, steps, MIXUP),
    "mix.switch": (1.0, steps, {**MIXUP, "mix.cutmix": 1.0, "mix.switch": 0.0}),
    "mix.per": ("example", steps, MIXUP),
    "mix.off": ("59st", steps, MIXUP),
    "mix.cutout": (4, steps, {}),
    "mix.erasing": (1.0, steps, {}),
    "mix.erasing_area": ((0.2, 0.3), steps, ERASING),
    "mix.erasing_aspect": ((3.0, 4.0), steps, ERASING),
    "mix.erasing_fill": ("pixel", steps, ERASING),
    "loss.name": ("bce", objective, {}),
    "loss.threshold": (0.5, objective, BCE),
    "loss.reduction": ("sum", objective, BCE),
    "loss.gamma": (0.5, objective, {"loss.name": "focal"}),
    "loss.class_weights": ("inverse", objective, {}),
    "loss.l1": (0.1, objective, {}),
    "loss.l1_on": (".*bias", objective, {"loss.l1": 0.1}),
    "loss.l2": (0.1, objective, {}),
    "loss.l2_on": (".*bias", objective, {"loss.l2": 0.1}),
    "optim.name": ("adamw", updates, {}),
    "optim.lr": (0.3, updates, {}),
    "optim.lr_batch": (64, updates, {}),
    "optim.momentum": (0.5, updates, {}),
    "optim.nesterov": (True, updates, {}),
    "optim.beta2": (0.5, updates, ADAM),
    "optim.epsilon": (0.1, updates, ADAM),
    "optim.trust": (0.01, updates, {"optim.name": "lars"}),
    "optim.weight_decay": (0.5, updates, {}),
    "optim.decay": ("decoupled", updates, {}),
    "optim.decay_mask": ("all", updates, {}),
    "optim.clip": (0.1, updates, {}),
    "optim.clip_value": (0.1, updates, {}),
    "optim.sam": (0.05, steps, {}),
    "optim.accumulate": (2, steps, {}),
    "optim.schedule": ("constant", updates, {}),
    "optim.power": (3.0, updates, {"optim.schedule": "polynomial"}),
    "optim.floor": (0.01, updates, {}),
    "optim.hold": ("50%", updates, {"optim.floor": 0.01}),
    "optim.cycle": ("4st", updates, HOLD),
    "optim.cycle_lr": (0.07, updates, {**HOLD, "optim.cycle": "4st"}),
    "optim.scaling": ("sqrt", updates, {"optim.lr_batch": 64}),
    "optim.warmup": ("10st", updates, {}),
    "optim.milestones": (("10st",), updates, STEP),
    "optim.gamma": (0.5, updates, STEP),
    "eval.every": ("4st", leaves, SHORT),
    "eval.batch_size": (64, batch, {}),
    "eval.crop_fraction": (0.5, batch, {}),
    "eval.interpolation": ("bicubic", batch, {"eval.crop_fraction": 0.5}),
    "eval.precise_bn": (2, ended, SHORT),
    "checkpoint.every": ("1st", leaves, {**SHORT, "checkpoint.every": "", "checkpoint.keep": 3}),
    "checkpoint.keep": (1, leaves, {**SHORT, "checkpoint.every": "1st"}),
    "checkpoint.best": ("loss", keeping, {"checkpoint.keep": 1}),
    "mesh.coordinator": ("localhost:2", processes, MESH),
    "mesh.processes": (3, processes, MESH),
    "mesh.process_id": (1, processes, MESH),
    "mesh.fsdp": (2, layout, {}),
    "mesh.fsdp_params": (True, layout, {"mesh.fsdp": 2}),
}


def test_no_option_is_missing():
    def paths(cls: Any, where: str = "") -> list[str]:
        found = []
        for field in fields(cls):
            inner = field.default_factory if field.default_factory is not dataclasses.MISSING else 0
            found += paths(inner, f"{field.name}.") if is_dataclass(inner) else [where + field.name]
        return found

    assert sorted(CHANGES) == sorted(paths(RunConfig))
    assert {f.name for f in fields(ResNetSpec)} < {f.name for f in fields(ModelConfig)}


@pytest.mark.parametrize("path", CHANGES)
def test_option_changes_something(path, tmp_path):
    value, observe, besides = CHANGES[path]
    base = together(tiny(), besides)
    other = changed(base, path, value)
    assert to_json(base) != to_json(other)
    if observe is outcome and not besides:
        bad = path == "data.on_bad_image"
        base, other = (in_folder(c, tmp_path / "photos", bad=bad) for c in (base, other))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    if observe in (network, steps, updates, objective, layout):  # which write no files
        before = observed_once(observe, base)
    else:
        before = observe(base, tmp_path / "a")
    assert before != observe(other, tmp_path / "b")


@functools.cache
def observed_once(observe: Callable[[RunConfig, Path], str], base: RunConfig) -> str:
    """Most options are compared with the same few configurations."""
    return observe(base, Path())


def in_folder(config: RunConfig, root: Path, *, bad: bool) -> RunConfig:
    """The same options over a folder of three splits and two classes, maybe with a bad file."""
    for shade, split in enumerate(("train", "test", "other")):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (9, 9), shade).save(root / split / name / "0.png")
    if bad:
        (root / "train" / "a" / "1.png").write_text("text")
    return replace(config, data=replace(config.data, name="folder", dir=str(root)))


def test_best_by_loss(tmp_path):
    kept = {}
    for best in ("top1", "loss"):
        (tmp_path / best).mkdir()
        config = together(tiny(), {"checkpoint.keep": 1, "checkpoint.best": best})
        kept[best] = keeping(config, tmp_path / best)
    assert kept == {"top1": "[1, 3]", "loss": "[2, 3]"}
