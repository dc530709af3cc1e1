"""Checks of a run against its data, devices and directory, before anything is compiled."""

from dataclasses import replace
from pathlib import Path

import jax

from train.config import ConfigError, MeshConfig, RunConfig
from train.config.effects import unused_by_folder
from train.config.serialize import to_json
from train.console import warn
from train.data.check import check_images
from train.data.on_device import lives_on_devices
from train.data.pipeline import check_decoder
from train.distributed.processes import Processes
from train.distributed.signals import StopSignal
from train.learn.losses import make_penalty
from train.learn.model import check_batches, make_model
from train.learn.optim import make_average, make_schedule
from train.recipes import all_recipes
from train.run import initial_state
from train.run.data_changes import check_data, file_digests
from train.run.directory import is_empty, newest_checkpoint, resumes
from train.run.norm_groups import check_statistics
from train.run.parts import Run
from train.run.resume import check_duration
from train.run.sizes import check_memory, small_images


def check_run(run: Run, workdir: Path, processes: Processes) -> list[str]:
    """Runs every check that needs neither a compiler nor a write to `workdir`.

    Returns:
      Warnings.

    Raises:
      ConfigError: an option does not fit the data, the devices or the run in `workdir`; the
        weights to start from cannot be loaded; or the processes differ.
    """
    newest = newest_checkpoint(workdir)
    check_batches(run.config, run.mesh)
    warnings = check_lengths(run, resumed=newest is not None)
    check_parts(run)
    check_memory(run)
    check_duration(workdir, run)
    warnings += find_warnings(run, trains=newest != run.total_steps)
    if not is_empty(workdir):
        warnings += check_data(workdir, run)
    processes.check_same("the files of the data", file_digests(run))
    if newest is None:
        run.load_pretrained()
    # Not in `mesh`: each process has its own process_id.
    processes.check_same("this run's options", to_json(replace(run.config, mesh=MeshConfig())))
    return warnings


def check_lengths(run: Run, *, resumed: bool) -> list[str]:
    """Compares the duration and the batch size with the size of the data set.

    Returns:
      A warning if a `resumed` run has a batch larger than the data set: older versions allowed it,
      and such a run may be finished.

    Raises:
      ConfigError: the run is shorter than one step; or a new run has such a batch.
    """
    if run.total_steps < 1:
        raise ConfigError(f"duration {run.config.duration!r}: is shorter than one step")
    if run.mix_until is not None and run.mix_until <= 0:
        raise ConfigError(
            f"mix.off {run.config.mix.off!r} is {run.total_steps - run.mix_until} steps: must be "
            f"shorter than the run ({run.total_steps} steps)"
        )
    too_large = _batch_size_error(run)
    if too_large and not resumed:
        raise ConfigError(too_large)
    return [too_large] if too_large else []


def check_parts(run: Run) -> None:
    """Checks the options of the schedule, the network and the input.

    Raises:
      ConfigError: the warmup is not shorter than the run; options of the network contradict each
        other or the data; or `data.resident` or `data.decoder` is impossible here.
    """
    data = run.config.data
    if data.test_split and data.test_split == data.eval_split:
        raise ConfigError(
            f"data.test_split {data.test_split!r}: is data.eval_split too, which chooses the best "
            "checkpoint; name another split, or leave it out"
        )
    check_input(run)
    _ = run.class_weights
    if penalty := make_penalty(run.config.loss):
        jax.eval_shape(penalty, run.abstract_state.params)
    _ = run.balance
    make_schedule(run.config, examples=len(run.splits.train), total_steps=run.total_steps)
    make_average(run.config, examples=len(run.splits.train), total_steps=run.total_steps)
    make_model(run.config, len(run.class_names))
    lives_on_devices(run.config, run.splits, run.mesh, run.total_steps)
    check_decoder(run.config.data, run.config.augment)


def check_input(run: Run) -> None:
    """Checks what is done to training images and their targets.

    Raises:
      ConfigError: an option does not fit the classes or the channels; see `check_sizes`.
    """
    check_sizes(run)
    mix, classes = run.config.mix, len(run.class_names)
    if mix.label_smoothing and mix.smooth_over == "others" and classes < 2:
        raise ConfigError(
            f"mix.smooth_over others: needs at least 2 classes; the data have {classes}"
        )
    fill = run.config.augment.fill
    if len(fill) == 3 and run.splits.train.channels == 1:
        raise ConfigError(f"augment.fill {fill}: needs one value, because the images are grey")


def check_sizes(run: Run) -> None:
    """Checks the sizes of training images, which may grow during the run.

    Raises:
      ConfigError: they do not grow, or the network or `mix.cutout` needs larger ones.
    """
    config, size = run.config, run.image_sizes[0].size
    cutout, name, smallest = config.mix.cutout, "data.image_size", config.data.image_size
    if config.augment.size_start:
        name, smallest = "augment.size_start", size
        if len(run.image_sizes) == 1:
            ramp = " ".join(config.augment.size_ramp)
            epochs = run.total_steps * config.batch_size / len(run.splits.train)
            raise ConfigError(
                f"augment.size_ramp {ramp}: all images of the run have {size} pixels on a side; "
                f"the size changes only between epochs, and it has {epochs:.3g}"
            )
        if config.data.mean == "image" or config.data.whiten != "none":
            raise ConfigError(
                f"augment.size_start {smallest}: must be 0 with {config.data.measured_name}, which "
                "needs images of one size"
            )
        initial_state.check_image_size(run.model, config, size)
    if cutout > smallest:
        raise ConfigError(f"mix.cutout {cutout}: must be at most {name} {smallest}")


def _batch_size_error(run: Run) -> str | None:
    """A message if a batch is larger than the data set, else None."""
    batch_size, count = run.config.batch_size, len(run.splits.train)
    if batch_size <= count:
        return None
    largest = count // run.mesh.size * run.mesh.size
    fix = f"choose --batch_size {largest} or less" if largest else "use fewer devices"
    epochs = batch_size / count
    step = f", so one step would be {epochs:.1f} epochs" if epochs >= 1.05 else ""
    scaled = f"; the learning rate is scaled for {batch_size}" if run.config.optim.lr_batch else ""
    return f"batch_size {batch_size}: there are {count} training images{step}{scaled}; {fix}"


def find_warnings(run: Run, *, trains: bool) -> list[str]:
    """Warnings about the data, and about options that do not suit them.

    Args:
      trains: False for a run that has done all its steps and is only evaluated.

    Raises:
      ConfigError: see `check_statistics`.
    """
    config, splits = run.config, run.splits
    recipe = all_recipes().get(config.recipe, RunConfig())
    found = [
        *unused_by_folder(splits.unused, config.data, vars(recipe.data)),
        *splits.notes,
        *_unused_by_grey(run),
        small_images(config),
        check_statistics(run) if trains else None,
        _check_patience(run),
    ]
    return [warning for warning in found if warning]


def _unused_by_grey(run: Run) -> list[str]:
    """Warnings about options for colours, if the images have one channel."""
    if run.splits.train.channels > 1:
        return []
    augment = run.config.augment
    unused = {
        "augment.jitter's saturation and hue": any(augment.jitter[2:]),
        "augment.grey": augment.grey > 0,
        "augment.lighting": augment.lighting > 0,
    }
    return [f"{name}: no effect, the images are grey" for name, given in unused.items() if given]


def _check_patience(run: Run) -> str | None:
    """A warning if the run has too few evaluations to end early, else None."""
    patience, every = run.config.patience, max(run.steps(run.config.eval.every), 1)
    # The best evaluation, `patience` more, and at least one step after them
    if not patience or (patience + 1) * every < run.total_steps:
        return None
    count = -(-run.total_steps // every)
    return (
        f"patience {patience} has no effect: the run has {count} evaluations, and can end early "
        f"only after {patience + 1}. Evaluate more often (--eval.every)"
    )


def check_eval_images(run: Run, workdir: Path, processes: Processes, stop: StopSignal) -> None:
    """Finds unreadable evaluation and test images before training. A resumed run skips this check.

    Raises:
      ConfigError: there are some, and `data.on_bad_image` is "error".
    """
    if resumes(workdir):
        return
    shard = (processes.index, processes.count)
    stopped = lambda: stop.signal is not None  # noqa: E731
    for source in (run.splits.eval, run.splits.test):
        if source is None:
            continue
        if warning := check_images(source, run.config.data, shard=shard, stopped=stopped):
            warn(warning)
