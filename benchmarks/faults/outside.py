"""Faults from outside a run: paths, second processes, lost output, signals, changed files.

Each function tries one kind of fault and compares the result with the campaign's reference run.
"""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.faults.campaign import Campaign
from benchmarks.faults.child_run import LIMIT, Workdir

NAMES = ("exp[1]", "a*b?", "{a,b} c", "ü名", "up/../down", "a%20b#c")
"""Names of run directories."""
TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""A program that makes its stdin its terminal, sets the answer to SIGHUP, and runs a command.

Popen's `preexec_fn` would fork this process, which JAX forbids once it has a backend.
"""


def paths(campaign: Campaign, names: tuple[str, ...] = NAMES) -> None:
    """A run in a directory of each name ends like the reference."""
    for name in names:
        run = campaign.workdir(name)
        (campaign.folder / name).parent.mkdir(parents=True, exist_ok=True)
        code = run.run_to_end()
        campaign.check(code == 0, f"{name}: exit code {code}: {run.err.read_text()}")
        campaign.check_end(run)
        campaign.count("paths")


def second_process(campaign: Campaign, count: int = 1) -> None:
    """The same command in the same directory is refused, without effect on the first process.

    SIGSTOP pauses the first process, so that it cannot end before the second starts.
    """
    for number in range(count):
        run = campaign.workdir(f"shared{number}")
        second = campaign.workdir(f"shared{number}")
        second.out, second.err = run.out.with_suffix(".out2"), run.err.with_suffix(".err2")
        with run.training() as child:
            run.wait_until(run.steps, child, "checkpoint")
            time.sleep(campaign.rng.uniform(0, 0.5))
            child.send_signal(signal.SIGSTOP)
            running, code = child.poll() is None, second.run_to_end()
            child.send_signal(signal.SIGCONT)
            stderr = second.err.read_text()
            named = f"another process (pid {child.pid} on {os.uname().nodename}, since " in stderr
            good = not running or (code == 2 and named)
            campaign.check(good, f"a second process: exit code {code}: {stderr}")
            campaign.check(run.wait(child) == 0, f"the first process: {run.err.read_text()}")
        campaign.check_end(run)
        if running:
            campaign.count("second processes")


def lost_output(campaign: Campaign) -> None:
    """A run ends like the reference if nobody reads its output, or the output has no room."""
    ways: dict[str, Callable[[], contextlib.AbstractContextManager[int]]] = {
        "a pipe whose reader leaves": _broken_pipe,
        "a full disk": lambda: _opened("/dev/full", os.O_WRONLY),
    }
    for number, (way, output) in enumerate(ways.items()):
        run = campaign.workdir(f"unread{number}")
        with output() as target:
            done = subprocess.run(
                run.args, env=run.env, stdout=target, stderr=target, check=False, timeout=LIMIT
            )
        campaign.check(done.returncode == 0, f"output to {way}: exit code {done.returncode}")
        campaign.check_end(run)
        campaign.count("outputs that nobody reads")
    run = campaign.workdir("nohup")
    code = _in_terminal(campaign, run, nohup=True)
    campaign.check(code == 0, f"a closed terminal under nohup: exit code {code}")
    campaign.check_end(run)
    campaign.count("outputs that nobody reads")
    run = campaign.workdir("closed")
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *run.args]
    done = subprocess.run(closed, env=run.env, check=False, timeout=LIMIT)
    campaign.check(done.returncode == 0, f"closed descriptors: exit code {done.returncode}")
    campaign.check_end(run)
    campaign.count("outputs that nobody reads")


@contextlib.contextmanager
def _broken_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    yield descriptor
    os.close(descriptor)


def lost_terminals(campaign: Campaign, count: int = 1, *options: str) -> None:
    """A terminal closes at a random moment: the run saves, and the next process resumes there."""
    for number in range(count):
        run = campaign.workdir(f"terminal{number}", *options)
        code = _in_terminal(campaign, run)
        if code == 0:  # it ended before
            campaign.check_end(run)
            continue
        campaign.check(code == 1, f"a closed terminal: exit code {code}")
        saved = _saved(campaign, run)
        campaign.check(run.run_to_end() == 0, f"after a closed terminal: {run.err.read_text()}")
        campaign.check_restart(run, saved)
        campaign.check_end(run)
        campaign.count("closed terminals")


def _in_terminal(campaign: Campaign, run: Workdir, *, nohup: bool = False) -> int:
    """Trains in a separate terminal, which closes during the run; returns the exit code."""
    main, terminal = pty.openpty()

    child = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, "SIG_IGN" if nohup else "SIG_DFL", *run.args],
        env={**run.env, "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    os.set_blocking(main, False)

    def has_checkpoint() -> bool:
        with contextlib.suppress(BlockingIOError, OSError):
            os.read(main, 65536)  # a terminal that nobody reads blocks its writers
        return bool(run.steps())

    with child:
        try:
            run.wait_until(has_checkpoint, child, "checkpoint")
            time.sleep(campaign.rng.uniform(0, 0.5))
            os.close(main)
            return run.wait(child)
        finally:
            child.kill()


def hangups(campaign: Campaign, count: int = 1, *options: str) -> None:
    """SIGHUP, SIGINT or SIGTERM to all processes of a run: it saves, without other messages."""
    for number in range(count):
        name = ("SIGHUP", "SIGINT", "SIGTERM")[number % 3]
        run = campaign.workdir(f"group{number}", *options)
        with run.training(start_new_session=True) as child:
            run.wait_until(run.steps, child, "checkpoint")
            time.sleep(campaign.rng.uniform(0, 0.5))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, getattr(signal, name))
            code = run.wait(child)
        stderr = run.err.read_text()
        if code != 0:
            campaign.check(
                code == 1 and f"error: stopped by {name} after step" in stderr, f"{name}: {stderr}"
            )
            saved = _saved(campaign, run)
            campaign.check(run.run_to_end() == 0, f"after {name}: {run.err.read_text()}")
            campaign.check_restart(run, saved)
        campaign.check("Traceback" not in stderr, f"{name}: a traceback")
        campaign.check_end(run)
        campaign.count("signals to all processes")


def _saved(campaign: Campaign, run: Workdir) -> int:
    """The step of the newest checkpoint of a stopped run; none may be damaged."""
    steps = run.steps()
    undamaged = [step for step in steps if run.checkpoint(step) is not None]
    campaign.check(
        bool(steps) and undamaged == steps, f"{run.path.name}: {undamaged} of {steps} are undamaged"
    )
    return max(steps, default=0)


PHOTOS = ("--data.name", "folder", "--data.image_size", "16", "--model.stem_pool", "none")


def changed_files(campaign: Campaign) -> None:
    """Changed files of a folder with a held-out split are reported.

    A resume with other training images is refused. With other evaluation images it warns.
    """
    root = photos(campaign.folder / "photos")
    run = campaign.workdir("split", *PHOTOS, "--data.dir", str(root))
    campaign.check(run.run_to_end() == 0, f"a folder: {run.err.read_text()}")
    first, last = sorted((root / "red").iterdir())[:: len(list((root / "red").iterdir())) - 1]
    changes: dict[str, Callable[[], object]] = {
        "one file more": lambda: (root / "red" / "zz.png").write_bytes(first.read_bytes()),
        "one more, one less": last.unlink,
        "one less": (root / "red" / "zz.png").unlink,
    }
    for what, change in changes.items():
        change()
        code, stderr = run.run_to_end(), run.err.read_text()
        refused = code == 2 and stderr.startswith("error: the training files of ")
        warned = code == 0 and "warning: the evaluation files of " in stderr
        campaign.check(refused or warned, f"{what}: exit code {code}: {stderr}")
        campaign.check("have changed: " in stderr, f"{what}: {stderr}")
        campaign.count("changes of the files")


def photos(root: Path, count: int = 60) -> Path:
    """A folder of two classes, red and blue, without splits."""
    rng = np.random.default_rng(0)
    for channel, colour in ((0, "red"), (2, "blue")):
        (root / colour).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 100, (16, 16, 3), np.uint8)
            image[..., channel] += 150
            Image.fromarray(image).save(root / colour / f"{i:02}.png")
    return root
