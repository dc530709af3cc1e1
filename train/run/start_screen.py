"""The start screen: one line on each part of a run, shown before compilation."""

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import jax

from train.config import LossConfig, RunConfig
from train.config.effects import changes, shown
from train.data.on_device import why_on_host
from train.data.sources import Source, class_counts
from train.learn.optim import ema_warmup, peak_rate
from train.run.parts import Run
from train.run.precise import precise_batches
from train.run.preprocessing import describe_mean

LISTED_CLASSES = 10
"""Up to this number of classes, the screen lists the examples of each class."""


def describe_run(run: Run, workdir: Path, checkpoint: int | None) -> list[str]:
    """The lines of the screen, a label and a text each.

    Args:
      run: its parameters are counted from shapes.
      workdir: of the run.
      checkpoint: step of the newest checkpoint in `workdir`; None: a new run.
    """
    resumes = "new" if checkpoint is None else f"resumes from the checkpoint of step {checkpoint:,}"
    lines = {
        "data": _data(run),
        "classes": _classes(run.splits.train) + _sampling(run.config),
        "images": _images(run),
        "network": _network(run),
        "weights": _weights(run.config, resumes=checkpoint is not None),
        "optimiser": _optimiser(run),
        "loss": _loss(run),
        "duration": _duration(run),
        "devices": _devices(run),
        "workdir": f"{workdir}, {resumes}",
    }
    return [f"{label:<10} {text}" for label, text in lines.items() if text]


def _data(run: Run) -> str:
    data, splits = run.config.data, run.splits
    colour = {1: "grey", 3: "RGB"}.get(splits.train.channels, f"{splits.train.channels} channels")
    where = f" in {data.dir}" if data.dir else ""
    test = "" if splits.test is None else f", {len(splits.test):,} to test the best checkpoint on"
    return (
        f"{data.name}{where}: {len(splits.train):,} images to train on, {len(splits.eval):,} to "
        f"evaluate on{test}, {colour}"
    )


def _classes(source: Source) -> str:
    """Class names and, if the labels are in memory, the number of training images of each."""
    names, counts = source.class_names, class_counts(source)
    if counts is None:
        shown = ", ".join(names[:LISTED_CLASSES])
        return f"{len(names):,}: {shown}{', ...' if len(names) > LISTED_CLASSES else ''}"
    if len(names) <= LISTED_CLASSES:
        pairs = zip(names, counts, strict=True)
        return f"{len(names)}: " + ", ".join(f"{name} ({count:,})" for name, count in pairs)
    least, most = int(counts.argmin()), int(counts.argmax())
    return (
        f"{len(names):,}: {counts[least]:,} ({names[least]}) to {counts[most]:,} ({names[most]}) "
        "training images each"
    )


def _sampling(config: RunConfig) -> str:
    """A note about `data.balance`; "" if there is none."""
    how = {"none": "", "inverse": "", "sqrt_inverse": " square root of the"}
    balance = config.data.balance
    return "" if balance == "none" else f"; sampled in inverse{how[balance]} frequency"


def _images(run: Run) -> str:
    config, sizes = run.config, [f"{part.size}x{part.size}" for part in run.image_sizes]
    data, augment, size = config.data, config.augment, " then ".join(sizes)
    if len(sizes) > 1:
        steps = ", ".join(f"{part.start:,}" for part in run.image_sizes[1:])
        size += f" from step {steps} on ({len(sizes)} programs are compiled)"
    crop = {
        "random_resized": "random crops",
        "pad": f"cropped after a padding of {augment.pad}",
        "none": "centre crops",
    }[augment.crop]
    if any(augment.scale):
        crop = "random crops at a short side of {} to {}".format(*augment.scale)
    mirrored = ", mirrored at random" if augment.flip else ""
    others = "".join(
        f", {field.name.replace('_', ' ')} {shown(getattr(augment, field.name))}"
        for field in fields(augment)
        if field.name not in _SHOWN and getattr(augment, field.name) != field.default
    )
    evaluated = f"evaluated at crop_fraction {config.eval.crop_fraction:g}"
    part = "" if run.measured == "mean and std" else f"{run.measured} "  # else std was given
    measured = f" ({part}measured)" if run.measured else ""
    why = why_on_host(config, run.splits, run.mesh, run.total_steps)
    resident = f"; data.resident is off: {why}" if why else ""
    return (
        f"{size}, {crop}{mirrored}{others}, {evaluated}; {describe_mean(data)}{measured}{resident}"
    )


# Options of `augment` that are shown in other words
_SHOWN = ("crop", "area", "aspect", "scale", "pad", "flip", "size_start", "size_ramp", "size_step")


def _network(run: Run) -> str:
    config = run.config
    changed = [
        f"{name.removeprefix('model.')} {shown(value)}"
        for name, value in changes(config, RunConfig()).items()
        if name.startswith("model.") and name != "model.name"
    ]
    with_changes = f" ({', '.join(changed)})" if changed else ""
    return f"{config.model.name}{with_changes}, {run.parameters:,} parameters{_average(run)}"


def _average(run: Run) -> str:
    """How the weights are averaged; '' if they are not."""
    config, average = run.config, run.average
    if average is None:
        return ""
    how = f"with ema_decay {config.ema_decay:g}"
    if config.swa_start:
        how = f"from step {run.steps(config.swa_start, run.total_steps):,} on with equal factors"
    elif config.ema_rule == "torchvision":
        how += f" (torchvision's rule: {float(average.decay(run.total_steps)):.4g})"
    every = f", every {average.every:,} steps" if average.every > 1 else ""
    return f", averaged {how}{every}"


def _weights(config: RunConfig, *, resumes: bool) -> str:
    init = config.init
    if resumes:
        return "from the checkpoint"
    if not init.weights:
        return f"random, seed {config.seed}"
    return f"{init.weights}, {'a new' if init.head == 'reset' else 'with its'} classifier"


def _optimiser(run: Run) -> str:
    config = run.config
    optim, batch = config.optim, config.batch_size
    rate = f"lr {optim.lr:g}"
    if optim.lr_batch and optim.lr_batch != batch:
        factor = f"{batch}/{optim.lr_batch}"
        factor = f"sqrt({factor})" if optim.scaling == "sqrt" else factor
        rate += f" x {factor} = {peak_rate(run.config):.4g}"
    warmup = f", warm-up {optim.warmup}" if run.steps(optim.warmup, run.total_steps) else ""
    decay = f", weight decay {optim.weight_decay:g}" if optim.weight_decay else ""
    sam = f", SAM with rho {optim.sam:g} (two gradients a step)" if optim.sam else ""
    parts = f", {optim.accumulate} micro-batches a step" if optim.accumulate > 1 else ""
    schedule: str = optim.schedule
    if schedule == "step":
        schedule += f" (x {optim.gamma:g} at {', '.join(optim.milestones)})"
    elif optim.floor:
        schedule += f" to {optim.floor:g}"
        schedule += f" for the last {optim.hold}" if optim.hold else ""
        schedule += f", in cycles of {optim.cycle} from {optim.cycle_lr:g}" if optim.cycle else ""
    return f"{optim.name}, {rate}, {schedule}{warmup}{decay}{sam}{parts}"


def _loss(run: Run) -> str:
    """The loss; "" for plain cross-entropy."""
    loss, parts = run.config.loss, []
    if loss == LossConfig():
        return ""
    if loss.name == "bce" or run.config.data.multi_label:
        parts.append(f"{loss.reduction} of the classes")
    if loss.name == "bce" and loss.threshold is not None:
        parts.append(f"targets above {loss.threshold:g} are 1")
    if loss.name == "focal":
        parts.append(f"gamma {loss.gamma:g}")
    if weights := run.class_weights:
        rule = f" ({loss.class_weights})" if isinstance(loss.class_weights, str) else ""
        parts.append(f"class weights {min(weights):.4g} to {max(weights):.4g}{rule}")
    for name, value, on in (("L1", loss.l1, loss.l1_on), ("L2", loss.l2, loss.l2_on)):
        if value:
            parts.append(f"{name} penalty {value:g} on {on}")
    return ", ".join([loss.name, *parts])


def _duration(run: Run) -> str:
    """The duration in steps and epochs: whole steps may end after the last epoch."""
    config, examples = run.config, len(run.splits.train)
    steps, every = run.total_steps, max(run.steps(config.eval.every), 1)
    evaluated = f"every {every:,} steps and at the end" if every < steps else "at the end"
    if batches := precise_batches(run):
        evaluated += f" with BatchNorm statistics of {batches} batches"
    return (
        f"{config.duration}: {steps:,} steps of {config.batch_size} images, "
        f"{steps * config.batch_size / examples:.2f} epochs; evaluated {evaluated}"
    )


def _devices(run: Run) -> str:
    devices = run.mesh.devices.flatten()
    first = devices[0]
    cores = f" ({os.cpu_count()} cores)" if first.platform == "cpu" else ""
    count = jax.process_count()
    processes = f" of {count} processes" if count > 1 else ""
    return f"{len(devices)} x {first.device_kind}{cores}{processes}, {run.config.precision}"


def ema_note(run: Run) -> str | None:
    """A line for a run that ends before its `ema_decay` is reached; else None."""
    decay, steps, average = run.config.ema_decay, run.total_steps, run.average
    if not decay or run.config.ema_rule != "ramp" or average is None:
        return None
    reached = ema_warmup(decay) * average.every
    if reached < steps:
        return None
    return (
        f"ema_decay {decay:g} is reached after {reached:,} steps. This run has {steps:,} and ends "
        f"at {float(average.decay(steps - 1)):.4g}: its average covers about the last tenth"
    )


def accelerator_warnings() -> list[str]:
    """One warning if this machine has a GPU or TPU that JAX does not use, else []."""
    found = unused_accelerator(jax.default_backend(), os.environ)
    return [found] if found else []


def unused_accelerator(
    platform: str, environment: Mapping[str, str], root: Path = Path("/")
) -> str | None:
    """A warning if this machine has a GPU or TPU, but JAX runs on the CPU; else None.

    Args:
      platform: of JAX's devices, such as "cpu".
      environment: variables of the process; no warning if they select the CPU.
      root: of the file system.
    """
    selected = environment.get("JAX_PLATFORMS", "") + environment.get("JAX_PLATFORM_NAME", "")
    if platform != "cpu" or "cpu" in selected:
        return None
    if any(root.glob("dev/nvidia[0-9]*")) or (root / "proc/driver/nvidia/version").exists():
        if environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            return None
        plugin = [name for name in ("jax-cuda13-plugin", "jax-cuda12-plugin") if _has(name)]
        fix = (
            f"{plugin[0]} is installed, but finds no usable GPU: check nvidia-smi and the driver "
            "version"
            if plugin
            else "install JAX for it: pip install -e '.[cuda]'"
        )
        return f"this machine has an NVIDIA GPU, but JAX runs on the CPU; {fix}"
    if any(root.glob("dev/accel[0-9]*")):
        return (
            "this machine has a TPU, but JAX runs on the CPU; install JAX for it: "
            "pip install -e '.[tpu]'"
        )
    return None


def _has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
