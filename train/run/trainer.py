"""`Trainer`: the steps of a run, and the logging, evaluations and checkpoints between them."""

import contextlib
import time
from pathlib import Path

import jax

from train import STARTED
from train.checkpoint.manager import Checkpoints, Restored
from train.checkpoint.run_weights import eval_weights
from train.config import ConfigError, RunError
from train.console import warn
from train.data.batch import HostBatch
from train.data.prefetch import Stopped
from train.distributed.mesh import Batch, replicated_sharding
from train.distributed.processes import CoordinatedExit, Processes
from train.distributed.signals import StopSignal
from train.report.metrics_file import Row
from train.run.directory import resumes, write_config
from train.run.dispatch import Dispatches, dispatches
from train.run.early_stop import out_of_patience
from train.run.evaluate import Evaluation, evaluate, evaluate_checkpoint
from train.run.metrics import NonFinite
from train.run.parts import Run
from train.run.periods import Periods
from train.run.precise import precise
from train.run.progress import Display, describe_best
from train.run.resume import describe_extension, record_segments
from train.run.training_log import TrainingLog
from train.runtime import trim_heap

_PATIENCE = 10.0
"""Seconds that several processes wait for a batch after they were asked to stop."""


class Trainer:
    """Trains a run from its newest checkpoint, or from the start, to its end.

    Attributes:
      state: of the training, after `step` steps.
    """

    def __init__(self, run: Run, workdir: Path, display: Display, processes: Processes) -> None:
        """Restores the newest checkpoint in `workdir`; without one, writes config.json."""
        self.run, self.workdir, self.display, self.processes = run, workdir, display, processes
        self.checkpoints = Checkpoints(workdir / "checkpoints", run.config.checkpoint, run.task)
        found = resumes(workdir)
        processes.barrier()  # every process has looked before one of them writes
        self.step, self.state = 0, run.new_state(resumes=found)
        restored = self.checkpoints.restore(self.state)
        if restored:
            self._resume(restored)
        else:
            self._begin(found)
        progress = restored.progress if restored else None
        self.log = TrainingLog(run, workdir, display, processes, step=self.step, progress=progress)
        self._periods = Periods(run)
        self._saved = self.step
        self._eval_batches: list[tuple[HostBatch, Batch]] | None = [] if run.resident else None

    def _begin(self, found: bool) -> None:
        """Starts a new run; `found`: there is a folder that only looked like a checkpoint."""
        if found:
            self.state = self.run.new_state()
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        if self.processes.is_writer:
            (self.workdir / "anomaly.json").unlink(missing_ok=True)  # of an earlier start
            write_config(self.workdir, self.run, parameters)

    def _resume(self, restored: Restored) -> None:
        """Continues after a checkpoint; config.json records what --extend changed."""
        self.step, self.state = restored.step, restored.state
        for note in restored.notes:
            self._warn(note)
        total = self.run.total_steps
        if self.step == total:
            done = f"all {self.step:,} steps are done"
            self.display.say(f"{done} (--duration LONGER --extend trains further)")
        else:
            self.display.say(f"resumes after step {self.step:,} of {total:,}")
        if self.processes.is_writer:
            if extension := describe_extension(self.workdir, self.run, self.step):
                self.display.say(extension)
            record_segments(self.workdir, self.run, self.step)

    # --- steps -----------------------------------------------------------------------------------

    def train(self, stop: StopSignal) -> None:
        """Trains to the end of the run, or until `stop` receives a signal.

        Raises:
          CoordinatedExit: a signal, or a loss or gradient that is not finite.
          ConfigError, RunError: bad input; the storage failed. Steps that were trained are saved.
        """
        self._stop_signal = stop
        self.log.clock.start()
        if not self._has_ended():
            self.display.begin("compiling the first step", self.step)
        try:
            # A signal during an evaluation saves its step, but not the evaluation.
            missing = not self.log.has_evaluation(self.step)
            if self.step and self._periods.evaluates(self.step) and missing:
                self._evaluate()
            if not self._has_ended():
                self._train_steps(stop)
            if reason := out_of_patience(self.run, self.log.evaluations):
                self.display.say(reason)
        except Stopped:
            self._stop(str(stop.signal))
        except NonFinite as error:
            raise self._explain(error) from None
        except CoordinatedExit:
            raise
        except (ConfigError, RunError) as error:
            if self.processes.count > 1:
                raise  # the others may be a step further, and a checkpoint needs all of them
            saved = self._try_to_save()
            raise type(error)(f"{error}{saved}") from None

    def _train_steps(self, stop: StopSignal) -> None:
        with self._dispatches() as dispatches:
            while not self._has_ended():
                if reason := self.processes.should_stop(self.step, stop.signal):
                    self._stop(reason)
                self._advance(dispatches)
                self._after_step()
                self.checkpoints.check()

    def _has_ended(self) -> bool:
        """Whether all steps are done, or the run ends early."""
        if self.step == self.run.total_steps:
            return True
        return out_of_patience(self.run, self.log.evaluations) is not None

    def _dispatches(self) -> Dispatches:
        return dispatches(
            self.run,
            self.step,
            report=self._warn,
            stopped=self._stopped,
            say=self.display.say,
        )

    def _advance(self, dispatches: Dispatches) -> None:
        """One dispatch, which ends at the latest where logging or a checkpoint is due."""
        with self.log.clock.waiting():
            work = dispatches.next(self._periods.until_next(self.step))
        first = self.log.clock.steps == 0
        self.state, sums = dispatches.run(self.state, work)
        self.log.add(self.step + 1, sums, work)
        self.step += work.steps
        if first:
            jax.block_until_ready(sums)
            self.display.say(f"first step after {time.perf_counter() - STARTED:.1f} s")
        self.display.advance(self.step if first else self.log.finished)

    def _after_step(self) -> None:
        if self._periods.logs(self.step):
            self.log.log_training(self.step)
        evaluation = self._evaluate() if self._periods.evaluates(self.step) else None
        if evaluation or self._periods.saves(self.step):
            self._save(evaluation)

    # --- the end, planned or not -----------------------------------------------------------------

    def _stopped(self, waited: float) -> bool:
        """Whether to stop during an evaluation, or after `waited` seconds without a batch.

        Several processes agree on a step to stop before. A process without a batch never reaches
        that step, so it gives up.
        """
        signal = self._stop_signal.signal
        if signal and self.processes.count > 1 and waited > _PATIENCE:
            raise RunError(
                f"stopped by {signal} after {waited:.0f} s without a batch; the same command "
                "resumes from the newest checkpoint"
            )
        return signal is not None and self.processes.count == 1

    def _stop(self, name: str) -> None:
        """Saves, and ends the run because of the signal `name`."""
        self._save(None)
        self.checkpoints.wait()
        self.processes.barrier()
        total = self.run.total_steps
        if self.step == total:
            raise CoordinatedExit(
                f"stopped by {name} in the last evaluation: all {total:,} steps are done and "
                "saved; the same command evaluates them and writes the report"
            )
        saved = "saved; the same command resumes there" if self.step else "nothing to save yet"
        raise CoordinatedExit(f"stopped by {name} after step {self.step:,} of {total:,}, {saved}")

    def _try_to_save(self) -> str:
        """Saves after an error; the sentence that its message ends with."""
        try:
            self._save(None)
            self.checkpoints.wait()
        except RunError:  # perhaps the error that is being reported
            return ""
        return f". What was trained is saved, up to step {self.step:,}" if self.step else ""

    def _explain(self, error: NonFinite) -> RunError:
        with contextlib.suppress(RunError):
            self.checkpoints.wait()
        steps = self.checkpoints.steps()
        good = f"the last good checkpoint is step {steps[-1]}" if steps else "no checkpoint yet"
        why, advice = self.log.explain(error)
        # All processes have the same sums, so all of them end here.
        return CoordinatedExit(f"{error} {why}; {good} in {self.checkpoints.folder}. {advice}")

    def finish(self) -> Row:
        """Evaluates the best checkpoint, on `data.test_split` if it is set; writes the report."""
        self.checkpoints.wait()
        self.display.begin("evaluating the best checkpoint", self.step)
        best = self.checkpoints.restore_weights("best", replicated_sharding(self.run.mesh))
        if unreadable := self.log.describe_unreadable():
            self.display.say(unreadable)
        best = precise(self.run, best, report=self._warn)
        tests = self.run.splits.test is not None
        split, cache = ("test", None) if tests else ("eval", self._eval_batches)
        writer = self.processes.is_writer
        row = evaluate_checkpoint(self.run, best, self.workdir, writer, cache, split)
        if tests:
            self.log.log_test(row)
        self.display.say(describe_best(row, self.run.task, self.run.config.data))
        self.display.say(f"report: {self.workdir / 'report' / 'index.html'}")
        return row

    def close(self) -> None:
        self.display.close()
        self.log.close()
        with contextlib.suppress(RunError):  # a failed checkpoint was already reported
            self.checkpoints.close()

    # --- evaluations and checkpoints -------------------------------------------------------------

    def _warn(self, message: str) -> None:
        """Warns on stderr, also in processes that show no progress."""
        who = f"process {self.processes.index}: " if self.processes.count > 1 else ""
        warn(who + message)

    def _evaluate(self) -> Evaluation:
        since = time.perf_counter()
        # Without a terminal, the row that follows is enough; at the end, the wait is longer.
        if self.display.is_live or self.step == self.run.total_steps:
            self.display.begin(f"evaluating {len(self.run.splits.eval):,} images", self.step)
        weights = {"raw": self.state.variables}
        if self.state.ema:
            weights["ema"] = self.state.ema
        evaluation = evaluate(
            self.run, weights, report=self._warn, stopped=self._stopped, cache=self._eval_batches
        )
        self.log.log_evaluation(self.step, evaluation, time.perf_counter() - since)
        return evaluation

    def _save(self, evaluation: Evaluation | None) -> None:
        """Starts to save a checkpoint of this step, unless there is one."""
        if self.step == self._saved:
            return
        progress = self.log.progress()
        name, _ = eval_weights(self.state)
        metrics = evaluation.metrics[name] if evaluation else None
        self.checkpoints.save(self.step, self.state, progress, metrics)
        self._saved = self.step
        trim_heap()  # evaluations and checkpoints free much memory
