"""Which steps are followed by logging, an evaluation or a checkpoint."""

from train.run.parts import Run


class Periods:
    """The periods of a run, in steps: `log_every`, `eval.every`, `checkpoint.every`."""

    def __init__(self, run: Run) -> None:
        config = run.config
        self._total = run.total_steps
        self._log = _steps(run, config.log_every)
        self._evaluate = _steps(run, config.eval.every)
        self._save = _steps(run, config.checkpoint.every)

    def logs(self, step: int) -> bool:
        """Whether the training metrics are logged after `step`."""
        return self._due(self._log, step)

    def evaluates(self, step: int) -> bool:
        return self._due(self._evaluate, step)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step`; every evaluation has one too."""
        return self._due(self._save, step)

    def _due(self, period: int | None, step: int) -> bool:
        return step == self._total or (period is not None and step % period == 0)

    def until_next(self, step: int) -> int:
        """The number of steps from `step` to the next one that something follows."""
        periods = [n for n in (self._log, self._evaluate, self._save) if n]
        return min(self._total - step, *(n - step % n for n in periods))


def _steps(run: Run, every: str) -> int | None:
    """None: at the end only."""
    return max(run.steps(every), 1) if every else None
