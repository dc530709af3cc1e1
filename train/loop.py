"""`fit`: a run from its config to its report."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from train.config import ConfigError, MeshConfig, RunConfig
from train.config_json import to_json
from train.data.check import check_images
from train.data.pipeline import check_decoder
from train.mesh import check_batch_size
from train.metrics import Row
from train.processes import Processes, start
from train.progress import Display, warn
from train.run import Run, check_workdir, resumed_config, use_compilation_cache
from train.run_data import check_data
from train.start_screen import accelerator_warnings, describe_run
from train.stop import Stop
from train.trainer import Trainer, newest_checkpoint, resumes


def fit(
    config: RunConfig, workdir: str | Path, *, quiet: bool = False, stop: Stop | None = None
) -> Row:
    """Trains a run, or resumes the one in `workdir`, and writes its report.

    The same config and directory again continue after the newest checkpoint, bit for bit as if
    nothing had happened. `stop` is for a caller that already listens to signals.

    Returns:
      The evaluation of the best checkpoint: `step`, `examples`, `loss`, `top1`, `top5`, `weights`.

    Raises:
      ConfigError: bad input; what was trained so far is saved.
      RunError: it could not go on: a loss that is not finite, a disk that is full, a signal.
    """
    workdir = Path(workdir)
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(Stop().listening())
        processes = stack.enter_context(start(config.mesh, lambda: stop.signal))
        config = resumed_config(workdir, config)
        check_workdir(workdir, config)
        use_compilation_cache(config.compilation_cache)
        run = Run(config)
        check_batch_size("batch_size", config.batch_size, run.mesh)
        _check_lengths(run)
        notes = [*run.splits.notes, *check_data(workdir, run)]
        processes.check_same("the files of the data", _file_digests(run))
        if not resumes(workdir):
            _ = run.given  # what is wrong with a file shows before anything is compiled or written
        processes.check_same("this run's options", to_json(replace(config, mesh=MeshConfig())))
        try:
            (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"workdir {str(workdir)!r}: {error.strerror}") from None
        display = Display(run.total_steps, quiet or not processes.is_writer)
        _introduce(run, workdir, display)
        for note in notes if processes.is_writer else ():
            warn(note)
        with processes.reporting():
            _check_eval_images(run, workdir, processes, stop)
        trainer = Trainer(run, workdir, display, processes)
        stack.callback(trainer.close)
        with processes.reporting():
            trainer.train(stop)
            return trainer.finish()


def _file_digests(run: Run) -> Any:
    """What must be the same in all processes, or their batches would not fit together."""
    files = run.files or {}
    return {split: files.get(split) for split in ("train", "eval")}


def _check_eval_images(run: Run, workdir: Path, processes: Processes, stop: Stop) -> None:
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


def _check_lengths(run: Run) -> None:
    """Raises `ConfigError` for what only the size of the data set can tell, before compilation."""
    if run.total_steps < 1:
        raise ConfigError(f"duration {run.config.duration!r}: is no step at all")
    _ = run.schedule, run.model, run.resident
    check_decoder(run.config.data, run.config.augment)
