"""The training itself: steps, and what is done between them."""

import contextlib
import time
from pathlib import Path
from typing import Any

import jax

from train import STARTED
from train.checkpoint.manager import Checkpoints, eval_weights
from train.checkpoint.reader import Progress
from train.config import ConfigError, RunError
from train.console import warn
from train.data.prefetch import Stopped
from train.distributed.mesh import replicated_sharding
from train.distributed.processes import CoordinatedExit, Processes
from train.distributed.signals import StopSignal
from train.report.metrics_file import Row
from train.run import nonfinite
from train.run.dispatch import Dispatches, dispatches
from train.run.evaluate import Evaluation, as_row, evaluate, evaluate_checkpoint
from train.run.metrics import MetricsLog, NoLog, NonFinite, Window
from train.run.parts import Run, write_config
from train.run.progress import Display
from train.run.resume import describe_extension, record_segments, resumes
from train.run.throughput import Clock
from train.runtime import trim_heap

_PATIENCE = 10.0  # seconds that several processes, asked to stop, wait for a batch


class Trainer:
    """What `fit` holds while it runs."""

    def __init__(self, run: Run, workdir: Path, display: Display, processes: Processes) -> None:
        self.run, self.workdir, self.display, self.processes = run, workdir, display, processes
        self.checkpoints = Checkpoints(workdir / "checkpoints", run.config.checkpoint)
        found = resumes(workdir)
        processes.barrier()  # before any of them writes what another one looks for
        self.state = run.new_state(resumes=found)
        self.step, self.bad, self.retried = 0, set[int](), 0
        self._kept: Any = [] if run.resident else None
        self.window = Window(limit=run.config.skip_nonfinite)
        restored = self.checkpoints.restore(self.state)
        if restored:
            self.step, self.state = restored.step, restored.state
            self.window = Window(
                restored.progress["window"],
                limit=run.config.skip_nonfinite,
                left_out=restored.progress.get("left_out", ()),
            )
            self.bad = set(restored.progress["bad"])
            for note in restored.notes:
                self._warn(note)
            self._say_where(restored.step)
        else:
            if found:  # what looked like a checkpoint is none
                self.state = run.new_state()
            parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
            if processes.is_writer:
                (workdir / "nonfinite.json").unlink(missing_ok=True)  # an earlier start's
                write_config(workdir, run, parameters)
        self.log = MetricsLog(workdir, self.step) if processes.is_writer else NoLog(workdir)
        self._saved, self._told = self.step, len(self.window.left_out)
        self._clock = Clock()

    def _say_where(self, step: int) -> None:
        """What a run that is resumed goes on with; config.json keeps what --extend changed."""
        total = self.run.total_steps
        done = f"all {step:,} steps are done (--duration LONGER --extend goes on)"
        self.display.say(done if step == total else f"resumes after step {step:,} of {total:,}")
        if self.processes.is_writer:
            if extension := describe_extension(self.workdir, self.run, step):
                self.display.say(extension)
            record_segments(self.workdir, self.run, step)

    def train(self, stop: StopSignal) -> None:
        """Steps up to the end of the run."""
        self._asked = stop
        self._clock.start()
        if self.step < self.run.total_steps:
            self.display.begin("compiling the first step", self.step)
        try:
            # An evaluation that was cut short left its step saved, but not evaluated.
            every = self.run.config.eval.every
            if self.step and self._due(every) and self.step not in self.log.evaluated:
                self._evaluate()
            with self._dispatches() as dispatches:
                while self.step < self.run.total_steps:
                    if reason := self.processes.should_stop(self.step, stop.signal):
                        self._stop(reason)
                    self._advance(dispatches)
                    self._after_step()
                    self.checkpoints.check()
        except Stopped:
            self._stop(str(stop.signal))
        except NonFinite as error:
            raise self._explain(error) from None
        except CoordinatedExit:
            raise
        except (ConfigError, RunError) as error:  # bad input and bad storage lose nothing
            if self.processes.count > 1:
                raise  # the others are a step further, and a checkpoint takes all of them
            saved = self._saved_after_all()
            raise type(error)(f"{error}{saved}") from None

    def _saved_after_all(self) -> str:
        try:
            self._save(None)
            self.checkpoints.wait()
        except RunError:  # such as the one that is being told
            return ""
        return f". What was trained is saved, up to step {self.step:,}" if self.step else ""

    def _stopped(self, waited: float) -> bool:
        """Whether to stop in the middle of waiting, or of an evaluation.

        Several processes agree on a step to stop before, and have to reach it; one that has no
        batch for it never does.
        """
        if self._asked.signal and self.processes.count > 1 and waited > _PATIENCE:
            raise RunError(
                f"stopped by {self._asked.signal} after {waited:.0f} s without a batch; the same "
                "command resumes from the newest checkpoint"
            )
        return self._asked.signal is not None and self.processes.count == 1

    def _warn(self, message: str) -> None:
        """To stderr, from whatever process it concerns."""
        who = f"process {self.processes.index}: " if self.processes.count > 1 else ""
        warn(who + message)

    def _dispatches(self) -> Dispatches:
        options: Any = {"report": self._warn, "stopped": self._stopped, "say": self.display.say}
        return dispatches(self.run, self.step, **options)

    def _advance(self, dispatches: Dispatches) -> None:
        """One dispatch, which ends at the latest where something is due."""
        with self._clock.waiting():
            work = dispatches.next(self._steps_until_due())
        first = self._clock.steps == 0
        self.state, sums = dispatches.run(self.state, work)
        self.window.add(self.step + 1, sums, work.steps)
        self.step += work.steps
        self.bad.update(int(i) for i in work.host["bad"] if i >= 0)
        self.retried += int(work.host["retried"].sum())
        self._clock.steps += work.steps
        if first:
            jax.block_until_ready(sums)
            self.display.say(f"first step after {time.perf_counter() - STARTED:.1f} s")
        self.display.advance(self.step if first else self.window.finished)

    def _steps_until_due(self) -> int:
        config, run = self.run.config, self.run
        often = (config.log_every, config.eval.every, config.checkpoint.every)
        periods = [max(run.steps(every), 1) for every in often if every]
        return min(run.total_steps - self.step, *(n - self.step % n for n in periods))

    def _due(self, every: str) -> bool:
        """Whether something that happens this often, and at the end, happens after this step."""
        last = self.step == self.run.total_steps
        return last or (every != "" and self.step % max(self.run.steps(every), 1) == 0)

    def _after_step(self) -> None:
        config = self.run.config
        if self._due(config.log_every):
            self._log_training()
        evaluation = self._evaluate() if self._due(config.eval.every) else None
        if evaluation or self._due(config.checkpoint.every):
            self._save(evaluation)

    def _stop(self, name: str) -> None:
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

    def _log_training(self) -> None:
        means = self.window.close()
        self._report_skipped()
        if not means:  # none of its steps was finite
            return
        row = {
            "step": self.step,
            "epoch": self._epoch,
            "split": "train",
            **means,
            "lr": float(self.run.schedule(self.step - 1)),
            **self._clock.lap(self.run.config.batch_size),
        }
        self._sync_unreadable()
        if self.bad:
            row["skipped"] = len(self.bad)
        if self.retried:
            row["retried"] = self.retried
        if self.window.left_out:
            row["nonfinite"] = len(self.window.left_out)
        self.log.write(row)
        self.display.row(row)

    def _sync_unreadable(self) -> None:
        """Every process knows of the bad images that the others read."""
        self.bad.update(*self.processes.gather(sorted(self.bad)))

    def _report_skipped(self) -> None:
        """Says which steps were left out since the last time, and keeps it in nonfinite.json."""
        left_out = self.window.left_out
        if len(left_out) == self._told:
            return
        for step, what, value in left_out[self._told :]:
            self.display.say(
                f"{what} is not finite at step {step} ({value}): the step is left out, one of at "
                f"most {self.window.limit} (nonfinite.json)"
            )
        self._told = len(left_out)
        self._write_anomaly()

    def _write_anomaly(self) -> None:
        if not self.processes.is_writer:
            return
        with contextlib.suppress(OSError):  # a full disk will be spoken of by what must be written
            nonfinite.write(self.workdir, self.run, self.window.left_out)

    def _evaluate(self) -> Evaluation:
        since = time.perf_counter()
        if self.display.is_live or self.step == self.run.total_steps:  # else the next row tells
            self.display.begin(f"evaluating {len(self.run.splits.eval):,} images", self.step)
        weights = {"raw": self.state.variables}
        if self.state.ema:
            weights["ema"] = self.state.ema
        evaluation = evaluate(
            self.run, weights, report=self._warn, stopped=self._stopped, kept=self._kept
        )
        seconds = time.perf_counter() - since
        self._clock.pause(seconds)
        row = {"step": self.step, "epoch": self._epoch, "split": "eval", **as_row(evaluation)}
        row["seconds"] = round(seconds, 3)
        self.log.write(row)
        self.display.row(row)
        return evaluation

    @property
    def _epoch(self) -> float:
        return self.step * self.run.config.batch_size / len(self.run.splits.train)

    def _save(self, evaluation: Evaluation | None) -> None:
        if self.step == self._saved:
            return
        window = self.window.fetch()
        self._report_skipped()
        self._sync_unreadable()
        left_out = self.window.left_out
        progress: Progress = {"window": window, "bad": sorted(self.bad), "left_out": left_out}
        metrics = None
        if evaluation:
            metrics = evaluation.metrics[eval_weights(self.state)[0]]
        self.checkpoints.save(self.step, self.state, progress, metrics)
        self._saved = self.step
        trim_heap()  # what evaluations and checkpoints took

    def _explain(self, error: NonFinite) -> RunError:
        with contextlib.suppress(RunError):
            self.checkpoints.wait()
        steps = self.checkpoints.steps()
        good = f"the last good checkpoint is step {steps[-1]}" if steps else "no checkpoint yet"
        self._write_anomaly()
        limit = self.window.limit
        why, advice = nonfinite.explain(self.workdir, self.run, error.found, limit)
        # The sums are everyone's.
        return CoordinatedExit(f"{error} {why}; {good} in {self.checkpoints.folder}. {advice}")

    def finish(self) -> Row:
        """Evaluates the best checkpoint and writes the report."""
        self.checkpoints.wait()
        self.display.begin("evaluating the best checkpoint", self.step)
        best = self.checkpoints.restore_weights("best", replicated_sharding(self.run.mesh))
        self._warn_of_bad()
        row = evaluate_checkpoint(
            self.run, best, self.workdir, self.processes.is_writer, self._kept
        )
        which = f"step {best.step}" + (" (averaged weights)" if best.name == "ema" else "")
        self.display.say(
            f"best checkpoint: {which}, top-1 accuracy {100 * row['top1']:.2f} % and loss "
            f"{row['loss']:.4f} on {row['examples']:,} evaluation images"
        )
        self.display.say(f"report: {self.workdir / 'report' / 'index.html'}")
        return row

    def _warn_of_bad(self) -> None:
        source = self.run.splits.train
        if self.bad:
            names = ", ".join(source.name(i) for i in sorted(self.bad)[:10])
            more = f" and {len(self.bad) - 10:,} more" if len(self.bad) > 10 else ""
            images = "image" if len(self.bad) == 1 else "images"
            self.display.say(
                f"skipped {len(self.bad):,} unreadable training {images}: {names}{more}"
            )

    def close(self) -> None:
        self.display.close()
        self.log.close()
        with contextlib.suppress(RunError):  # what failed was already said
            self.checkpoints.close()
