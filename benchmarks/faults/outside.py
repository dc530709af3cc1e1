"""Faults that come from outside a run: paths, second processes, terminals, signals, other files.

Part of `benchmarks.faults.campaign`. Each function takes a `Campaign`, tries one kind of fault,
and checks against the campaign's undisturbed run what it leaves.
"""

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.faults.child_run import LIMIT, Workdir

if TYPE_CHECKING:
    from benchmarks.faults.campaign import Campaign

NAMES = ("exp[1]", "a*b?", "{a,b} c", "ü名", "up/../down", "a%20b#c")
"""Names of run directories."""


def paths(campaign: "Campaign", names: tuple[str, ...] = NAMES) -> None:
    """A run in a directory of each name ends as any other."""
    for name in names:
        run = campaign.workdir(name)
        (campaign.folder / name).parent.mkdir(parents=True, exist_ok=True)
        code = run.to_the_end()
        campaign.check(code == 0, f"{name}: exit code {code}: {run.err.read_text()}")
        campaign.check_end(run)
        campaign.count("paths")


def second_process(campaign: "Campaign", count: int = 1) -> None:
    """The same command in the same directory is refused, and the first one does not notice.

    The first one stands still meanwhile (SIGSTOP), so that it cannot end before the second starts.
    """
    for number in range(count):
        run = campaign.workdir(f"shared{number}")
        second = campaign.workdir(f"shared{number}")
        second.out, second.err = run.out.with_suffix(".out2"), run.err.with_suffix(".err2")
        with run.training() as child:
            run.until(run.steps, child, "checkpoint")
            time.sleep(campaign.rng.uniform(0, 0.5))
            child.send_signal(signal.SIGSTOP)
            running, code = child.poll() is None, second.to_the_end()
            child.send_signal(signal.SIGCONT)
            said = second.err.read_text()
            named = f"another process (pid {child.pid} on {os.uname().nodename}, since " in said
            good = not running or (code == 2 and named)
            campaign.check(good, f"a second process: exit code {code}: {said}")
            campaign.check(run.ended(child) == 0, f"the first process: {run.err.read_text()}")
        campaign.check_end(run)
        if running:
            campaign.count("second processes")


def lost_output(campaign: "Campaign") -> None:
    """A run whose output nobody reads, or has no room, ends as any other."""
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


def lost_terminals(campaign: "Campaign", count: int = 1, *options: str) -> None:
    """A terminal is closed at a random moment: the run saves, and the next one goes on there."""
    for number in range(count):
        run = campaign.workdir(f"terminal{number}", *options)
        code = _in_terminal(campaign, run)
        if code == 0:  # it ended before
            campaign.check_end(run)
            continue
        campaign.check(code == 1, f"a closed terminal: exit code {code}")
        saved = _saved(campaign, run)
        campaign.check(run.to_the_end() == 0, f"after a closed terminal: {run.err.read_text()}")
        campaign.check_restart(run, saved)
        campaign.check_end(run)
        campaign.count("closed terminals")


def _in_terminal(campaign: "Campaign", run: Workdir, *, nohup: bool = False) -> int:
    """Trains in a terminal of its own, which closes on the way; the exit code."""
    main, terminal = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    child = subprocess.Popen(
        run.args,
        env={**run.env, "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(terminal)
    os.set_blocking(main, False)

    def there() -> bool:
        with contextlib.suppress(BlockingIOError, OSError):
            os.read(main, 65536)  # a terminal that nobody reads blocks its writers
        return bool(run.steps())

    with child:
        try:
            run.until(there, child, "checkpoint")
            time.sleep(campaign.rng.uniform(0, 0.5))
            os.close(main)
            return run.ended(child)
        finally:
            child.kill()


def hangups(campaign: "Campaign", count: int = 1, *options: str) -> None:
    """SIGHUP, SIGINT or SIGTERM to all processes of a run: it saves, and says nothing else."""
    for number in range(count):
        name = ("SIGHUP", "SIGINT", "SIGTERM")[number % 3]
        run = campaign.workdir(f"group{number}", *options)
        with run.training(start_new_session=True) as child:
            run.until(run.steps, child, "checkpoint")
            time.sleep(campaign.rng.uniform(0, 0.5))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, getattr(signal, name))
            code = run.ended(child)
        said = run.err.read_text()
        if code != 0:
            campaign.check(
                code == 1 and f"error: stopped by {name} after step" in said, f"{name}: {said}"
            )
            saved = _saved(campaign, run)
            campaign.check(run.to_the_end() == 0, f"after {name}: {run.err.read_text()}")
            campaign.check_restart(run, saved)
        campaign.check("Traceback" not in said, f"{name}: a traceback")
        campaign.check_end(run)
        campaign.count("signals to all processes")


def _saved(campaign: "Campaign", run: Workdir) -> int:
    """The newest checkpoint of a run that was stopped, at a step of its own; all must be whole."""
    steps = run.steps()
    whole = [step for step in steps if run.content(step) is not None]
    campaign.check(bool(steps) and whole == steps, f"{run.path.name}: whole are {whole} of {steps}")
    return max(steps, default=0)


PHOTOS = ("--data.name", "folder", "--data.image_size", "16", "--model.stem_pool", "none")


def changed_files(campaign: "Campaign") -> None:
    """A folder of which a share is held out: no change of its files goes unsaid.

    A resume with other training images is refused; with others to evaluate on, it warns.
    """
    root = photos(campaign.folder / "photos")
    run = campaign.workdir("split", *PHOTOS, "--data.dir", str(root))
    campaign.check(run.to_the_end() == 0, f"a folder: {run.err.read_text()}")
    first, last = sorted((root / "red").iterdir())[:: len(list((root / "red").iterdir())) - 1]
    changes: dict[str, Callable[[], object]] = {
        "one file more": lambda: (root / "red" / "zz.png").write_bytes(first.read_bytes()),
        "one more, one less": last.unlink,
        "one less": (root / "red" / "zz.png").unlink,
    }
    for what, change in changes.items():
        change()
        code, said = run.to_the_end(), run.err.read_text()
        refused = code == 2 and said.startswith("error: the training files of ")
        warned = code == 0 and "warning: the evaluation files of " in said
        campaign.check(refused or warned, f"{what}: exit code {code}: {said}")
        campaign.check("have changed: " in said, f"{what}: {said}")
        campaign.count("changes of the files")


def photos(root: Path, count: int = 60) -> Path:
    """A folder of two classes, red and blue, that is not split."""
    rng = np.random.default_rng(0)
    for channel, colour in ((0, "red"), (2, "blue")):
        (root / colour).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 100, (16, 16, 3), np.uint8)
            image[..., channel] += 150
            Image.fromarray(image).save(root / colour / f"{i:02}.png")
    return root
