"""`fit`: a run from its config to its report."""

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from train.checkpoint.lock import RunLock
from train.config import ConfigError, RunConfig
from train.console import safe_output, warn
from train.data.workers import kill_workers
from train.distributed.initialize import start
from train.distributed.processes import Processes
from train.distributed.signals import StopSignal
from train.paths import expand, resolve_workdir
from train.report.metrics_file import Row
from train.run import out_of_memory
from train.run.checks import check_eval_images, check_run
from train.run.directory import newest_checkpoint, read_class_weights, resumes
from train.run.parts import Run
from train.run.pixels import measure_pixels
from train.run.preprocessing import adopt_preprocessing
from train.run.progress import Display
from train.run.resume import check_workdir, describe_other_version, resumed_config
from train.run.start_screen import accelerator_warnings, describe_run, ema_note
from train.run.time_budget import choose_steps
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

    With the same config and directory, a run continues after its newest checkpoint, and ends
    bit-identical to an uninterrupted run. Only one process may train in a directory. A run that
    starts from weights uses their preprocessing; see `train.run.preprocessing`.

    Args:
      quiet: print no progress.
      stop: a `StopSignal` that the caller has installed; None: one is installed here.
      extend: the run in `workdir` continues with another duration, evaluation, checkpoints or
        logging; config.json records the step from which they apply.
      given: options that the user set ("data.mean"), even to the recipe's value.

    Returns:
      The evaluation of the best checkpoint, with `step`, `examples`, `loss`, the task's metrics and
      `weights`.

    Raises:
      ConfigError: bad input, or another process trains in `workdir`. Steps that were trained are
        saved.
      RunError: training cannot continue: a loss that is not finite, a full disk, a signal.
    """
    since = time.perf_counter()
    workdir = resolve_workdir(workdir)
    config = _with_absolute_paths(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(safe_output())
        stop = stop or stack.enter_context(StopSignal(kill_workers).install())
        processes = stack.enter_context(start(config.mesh, lambda: stop.signal))
        lock = stack.enter_context(RunLock(workdir))
        if processes.is_writer:
            lock.take()
        config, lines = _prepare_config(config, workdir, given, extend=extend)
        use_compilation_cache(config.compilation_cache)
        is_shown = processes.is_writer and not quiet
        run = _make_run(config, workdir, processes, since, print if is_shown else lambda _: None)
        warnings = check_run(run, workdir, processes)
        _make_workdir(workdir)
        if processes.is_writer and lock.take():  # a new directory, which another may have used
            check_workdir(workdir, run.config, extend=extend)
        display = Display(run.total_steps, run.task, not is_shown)
        stack.callback(display.close)
        with processes.reporting():
            measure_pixels(run, workdir, processes, stop, display.say)
        _introduce(run, workdir, display, lines)
        for warning in warnings if processes.is_writer else ():
            warn(warning)
        with processes.reporting():
            check_eval_images(run, workdir, processes, stop)
        return _train(run, workdir, display, processes, stop, stack)


def _make_run(
    config: RunConfig,
    workdir: Path,
    processes: Processes,
    since: float,
    say: Callable[[str], None],
) -> Run:
    """The run of a config; a duration in hours, which counts from `since`, becomes steps."""
    check = partial(check_run, workdir=workdir, processes=processes)
    chosen = choose_steps(config, since, check, say)
    run = Run(chosen, class_weights=read_class_weights(workdir) if resumes(workdir) else None)
    if chosen is not config:
        run.time_budget = config.duration
    return run


class _Lines(NamedTuple):
    """Lines for the start screen."""

    before: Sequence[str]
    after: Sequence[str]


def _prepare_config(
    config: RunConfig, workdir: Path, given: Collection[str], *, extend: bool
) -> tuple[RunConfig, _Lines]:
    """The config that is trained: with the versions of rules of the run in `workdir`, and with the
    preprocessing of `init.weights`.

    Raises:
      ConfigError: `workdir` holds another run.
    """
    config = resumed_config(workdir, config, given)
    config, expected = adopt_preprocessing(config, workdir, resumes=resumes(workdir), given=given)
    replaced = check_workdir(workdir, config, extend=extend)
    return config, _Lines([replaced] if replaced else [], expected)


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """config.json is read from other working directories too."""
    if config.data.dir is None:
        return config
    folder = str(expand(config.data.dir, "data.dir").absolute())
    return replace(config, data=replace(config.data, dir=folder))


def _make_workdir(workdir: Path) -> None:
    try:
        (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"workdir {str(workdir)!r}: {error.strerror}") from None


def _introduce(run: Run, workdir: Path, display: Display, lines: _Lines) -> None:
    """Shows what will be trained, and on which devices."""
    for line in lines.before:
        display.say(line)
    if not display.quiet:
        for warning in accelerator_warnings():
            warn(warning)
        for line in describe_run(run, workdir, newest_checkpoint(workdir)):
            display.say(line)
        if note := ema_note(run):
            display.say(note)
    for line in lines.after:
        display.say(line)
    if other := describe_other_version(workdir):
        display.say(other)


def _train(
    run: Run,
    workdir: Path,
    display: Display,
    processes: Processes,
    stop: StopSignal,
    stack: contextlib.ExitStack,
) -> Row:
    """Trains and evaluates; the trainer closes with the `stack`, after errors were reported."""
    explain = out_of_memory.for_training(run)
    with out_of_memory.explained(explain):
        trainer = Trainer(run, workdir, display, processes)
    stack.callback(trainer.close)
    with processes.reporting(), out_of_memory.explained(explain):
        trainer.train(stop)
        return trainer.finish()
