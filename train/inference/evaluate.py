"""Evaluation of a run's checkpoint."""

from dataclasses import replace
from pathlib import Path

from train.checkpoint.manager import Checkpoints
from train.checkpoint.run_weights import Weights
from train.config import ConfigError, RunConfig
from train.console import warn
from train.distributed.mesh import make_mesh, replicated_sharding
from train.learn.tasks import make_task
from train.report.metrics_file import Row
from train.run.data_changes import open_eval_data
from train.run.directory import read_class_weights, read_config, read_record
from train.run.evaluate import evaluate_checkpoint
from train.run.parts import Run
from train.run.pixels import FILE, load
from train.run.precise import precise
from train.runtime import use_compilation_cache

_TRAINING = ("name", "dir", "train_split", "eval_fraction", "split_seed", "held_out")
"""Options of `data` that choose the training images."""


def read_weights(config: RunConfig, workdir: Path, which: str) -> Weights:
    """The weights of a run's checkpoint, on all devices.

    Args:
      which: "best", "last" or a step.

    Raises:
      ConfigError: there is no such checkpoint.
    """
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint, make_task(config))
    return checkpoints.restore_weights(which, replicated_sharding(make_mesh()))


def evaluate_run(config: RunConfig, workdir: Path, which: str) -> Row:
    """Evaluates a checkpoint of a run.

    Args:
      which: "best", "last" or a step.

    Returns:
      The metrics, as `train.run.evaluate.evaluate_checkpoint` returns them.

    Raises:
      ConfigError: there is no such checkpoint, the data cannot be read, or the classes of the data
        differ from those of the run.
    """
    use_compilation_cache(config.compilation_cache)
    splits, notes = open_eval_data(workdir, config)
    run = Run(config, splits=splits, class_weights=read_class_weights(workdir))
    run.use(config, load(workdir / FILE, config.data))
    for note in notes:
        warn(note)
    weights = read_weights(config, workdir, which)
    if config.eval.precise_bn:
        weights = precise(_on_training_data(run, workdir), weights)
    return evaluate_checkpoint(run, weights)


def _on_training_data(run: Run, workdir: Path) -> Run:
    """`run`; or, if it evaluates other data, the run with its own, which has its training images.

    Raises:
      ConfigError: these cannot be opened.
    """
    began, record = read_config(workdir), read_record(workdir)
    same_count = len(run.splits.train) == record["examples"]["train"]
    if run.files and record.get("files"):
        same = run.files["train"] == record["files"]["train"]  # also where they were moved
    else:
        now, then = ([getattr(x.data, name) for name in _TRAINING] for x in (run.config, began))
        same = same_count and now == then
    if same:
        return run
    config = replace(began, eval=replace(began.eval, precise_bn=run.config.eval.precise_bn))
    own = Run(config, class_weights=read_class_weights(workdir))
    own.use(config, load(workdir / FILE, config.data))
    try:
        _ = own.splits
    except ConfigError:
        if not same_count:
            raise
        return run  # a file that was moved
    return own
