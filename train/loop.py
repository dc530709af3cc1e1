"""`fit`: a run from its config to its report."""

import contextlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from train.compilation_cache import use_compilation_cache
from train.config import ConfigError, MeshConfig, RunConfig
from train.config_json import to_json
from train.data.pipeline import check_decoder
from train.mesh import check_batch_size
from train.metrics import Row
from train.processes import start
from train.progress import Display
from train.run import Run, check_data, check_workdir, resumed_config
from train.stop import Stop
from train.trainer import Trainer, resumes
from train.transfer import take_over


def fit(
    config: RunConfig,
    workdir: str | Path,
    *,
    quiet: bool = False,
    stop: Stop | None = None,
    given: Collection[str] = (),
) -> Row:
    """Trains a run, or resumes the one in `workdir`, and writes its report.

    The same config and directory again continue after the newest checkpoint, bit for bit as if
    nothing had happened. `stop` is for a caller that already listens to signals. A run that starts
    from weights takes over their preprocessing, but for what differs from the recipe and for the
    options in `given` ("data.mean"); see `train.transfer`.

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
        config, notes = take_over(config, workdir, resumes=resumes(workdir), given=given)
        check_workdir(workdir, config)
        use_compilation_cache(config.compilation_cache)
        run = Run(config)
        check_batch_size("batch_size", config.batch_size, run.mesh)
        _check_lengths(run)
        check_data(workdir, run, same_size=True)
        if not resumes(workdir):
            _ = run.given  # what is wrong with a file shows before anything is compiled or written
        processes.check_same("this run's options", to_json(replace(config, mesh=MeshConfig())))
        try:
            (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"workdir {str(workdir)!r}: {error.strerror}") from None
        display = Display(run.total_steps, quiet or not processes.is_writer)
        for note in notes:
            display.say(note)
        trainer = Trainer(run, workdir, display, processes)
        stack.callback(trainer.close)
        with processes.reporting():
            trainer.train(stop)
            return trainer.finish()


def _check_lengths(run: Run) -> None:
    """Raises `ConfigError` for what only the size of the data set can tell, before compilation."""
    if run.total_steps < 1:
        raise ConfigError(f"duration {run.config.duration!r}: is no step at all")
    _ = run.schedule, run.model, run.resident
    check_decoder(run.config.data, run.config.augment)
