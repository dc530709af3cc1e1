"""`fit`: a run from its config to its report."""

import contextlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from train.config import ConfigError, MeshConfig, RunConfig
from train.config.effects import unused_by_folder
from train.config.serialize import to_json
from train.console import safe_output, warn
from train.data.check import check_images
from train.data.pipeline import check_decoder
from train.data.workers import kill_workers
from train.distributed.mesh import check_batch_size
from train.distributed.processes import Processes, start
from train.distributed.signals import StopSignal
from train.paths import expand, resolve_workdir
from train.recipes import all_recipes
from train.report.metrics_file import Row
from train.run import out_of_memory
from train.run.data_changes import check_data, file_digests
from train.run.lock import RunLock
from train.run.norm_groups import check_statistics
from train.run.parts import Run
from train.run.preprocessing import take_over
from train.run.progress import Display
from train.run.resume import (
    check_duration,
    check_workdir,
    describe_other_version,
    is_empty,
    newest_checkpoint,
    resumed_config,
    resumes,
)
from train.run.sizes import check_memory, small_images
from train.run.start_screen import accelerator_warnings, describe_run
from train.run.trainer import Trainer
from train.runtime import use_compilation_cache


def fit(
    config: RunConfig,
    workdir: str | Path,
    *,
    quiet: bool = False,
    stop: StopSignal | None = None,
    extend: bool = False,
    given: Collection[str] = (),
) -> Row:
    """Trains a run, or resumes the one in `workdir`, and writes its report.

    The same config and directory again continue after the newest checkpoint, bit for bit as if
    nothing had happened. One process at a time may train in a directory. A run that starts from
    weights takes over their preprocessing; see `train.run.preprocessing`.

    Args:
      stop: of a caller that already listens to signals.
      extend: the run in `workdir` goes on with another duration, evaluation, checkpoints or
        logging; config.json keeps from which step on.
      given: options that were set by hand ("data.mean"), though they are the recipe's.

    Returns:
      The evaluation of the best checkpoint: `step`, `examples`, `loss`, `top1`, `top5`, `weights`.

    Raises:
      ConfigError: bad input, or another process trains in `workdir`; what was trained so far is
        saved.
      RunError: it could not go on: a loss that is not finite, a disk that is full, a signal.
    """
    workdir = resolve_workdir(workdir)
    config = _with_absolute_paths(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(safe_output())
        stop = stop or stack.enter_context(StopSignal(kill_workers).install())
        processes = stack.enter_context(start(config.mesh, lambda: stop.signal))
        lock = stack.enter_context(RunLock(workdir))
        if processes.is_writer:
            lock.take()
        config = resumed_config(workdir, config, given)
        config, expected = take_over(config, workdir, resumes=resumes(workdir), given=given)
        notice = check_workdir(workdir, config, extend=extend)
        use_compilation_cache(config.compilation_cache)
        run = Run(config)
        check_batch_size("batch_size", config.batch_size, run.mesh)
        newest = newest_checkpoint(workdir)
        large = _check_lengths(run, resumed=newest is not None)
        check_memory(run)
        check_duration(workdir, run)
        notes = [*filter(None, [large]), *_notes(run, trains=newest != run.total_steps)]
        if not is_empty(workdir):
            notes += check_data(workdir, run)
        processes.check_same("the files of the data", file_digests(run))
        if not resumes(workdir):
            _ = (
                run.pretrained_variables
            )  # what is wrong with a file shows before anything is compiled or written
        processes.check_same("this run's options", to_json(replace(config, mesh=MeshConfig())))
        try:
            (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"workdir {str(workdir)!r}: {error.strerror}") from None
        if processes.is_writer and lock.take():  # the directory is new, perhaps another process's
            check_workdir(workdir, config, extend=extend)
        display = Display(run.total_steps, quiet or not processes.is_writer)
        stack.callback(display.close)
        if notice:
            display.say(notice)
        _introduce(run, workdir, display)
        for line in (*expected, *filter(None, [describe_other_version(workdir)])):
            display.say(line)
        for note in notes if processes.is_writer else ():
            warn(note)
        with processes.reporting():
            _check_eval_images(run, workdir, processes, stop)
        explain = out_of_memory.for_training(run)
        with out_of_memory.explained(explain):
            trainer = Trainer(run, workdir, display, processes)
        stack.callback(trainer.close)
        with processes.reporting(), out_of_memory.explained(explain):
            trainer.train(stop)
            return trainer.finish()


def _notes(run: Run, *, trains: bool) -> list[str]:
    """Warnings of the data and of options that do not suit them; a run at its end `trains` no more.

    Raises:
      ConfigError: see `check_statistics`.
    """
    config, splits = run.config, run.splits
    recipe = all_recipes().get(config.recipe, RunConfig())
    unused = unused_by_folder(splits.unused, config.data, vars(recipe.data))
    found = [
        *unused,
        *splits.notes,
        small_images(config),
        check_statistics(run) if trains else None,
    ]
    return [note for note in found if note]


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """config.json is read from other working directories too."""
    if config.data.dir is None:
        return config
    folder = str(expand(config.data.dir, "data.dir").absolute())
    return replace(config, data=replace(config.data, dir=folder))


def _check_eval_images(run: Run, workdir: Path, processes: Processes, stop: StopSignal) -> None:
    """Finds unreadable evaluation images before training; a resume's were found by its start."""
    if resumes(workdir):
        return
    shard = (processes.index, processes.count)
    stopped = lambda: stop.signal is not None  # noqa: E731
    if note := check_images(run.splits.eval, run.config.data, shard=shard, stopped=stopped):
        warn(note)


def _introduce(run: Run, workdir: Path, display: Display) -> None:
    """Says what is about to be trained, and on what."""
    if display.quiet:
        return
    for warning in accelerator_warnings():
        warn(warning)
    for line in describe_run(run, workdir, newest_checkpoint(workdir)):
        display.say(line)
    if short := ema_note(run):
        display.say(short)


def ema_note(run: Run) -> str | None:
    """Says so if the run ends before its `ema_decay` is reached."""
    from train.learn.optim import ema_decay_at, ema_warmup

    decay, steps = run.config.ema_decay, run.total_steps
    if not decay or ema_warmup(decay) < steps:
        return None
    return (
        f"ema_decay {decay:g} is reached after {ema_warmup(decay):,} steps. This run has {steps:,} "
        f"and ends at {float(ema_decay_at(decay, steps - 1)):.4g}: its average covers about the "
        "last tenth"
    )


def _check_lengths(run: Run, *, resumed: bool) -> str | None:
    """Raises `ConfigError` for what only the size of the data set can tell, before compilation.

    Returns:
      A warning about the batch size of a run that is `resumed`.
    """
    if run.total_steps < 1:
        raise ConfigError(f"duration {run.config.duration!r}: is no step at all")
    mix, total = run.config.mix, run.total_steps
    if mix.mixes and mix.off and (end := run.steps(mix.off, total)) >= total:
        raise ConfigError(
            f"mix.off {mix.off!r} is {end} steps: must be shorter than the run ({total} steps)"
        )
    too_large = _batch_size_error(run)
    if too_large and not resumed:
        raise ConfigError(too_large)
    _ = run.schedule, run.model, run.resident
    check_decoder(run.config.data, run.config.augment)
    return too_large  # the run began before this was refused, and may end as it is


def _batch_size_error(run: Run) -> str | None:
    """What is wrong with a batch that is larger than the data set."""
    batch_size, count = run.config.batch_size, len(run.splits.train)
    if batch_size <= count:
        return None
    largest = count // run.mesh.size * run.mesh.size
    fix = f"choose --batch_size {largest} or less" if largest else "use fewer devices"
    epochs = batch_size / count
    step = f", so one step would be {epochs:.1f} epochs" if epochs >= 1.05 else ""
    scaled = f"; the learning rate is scaled for {batch_size}" if run.config.optim.lr_batch else ""
    return f"batch_size {batch_size}: there are {count} training images{step}{scaled}; {fix}"
