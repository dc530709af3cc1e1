"""One training at a time in a directory, by a lock that dies with its process."""

import errno
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.sharding import SingleDeviceSharding

from tests.runs import environment, tiny
from train.checkpoint.lock import RunLock, who_trains
from train.checkpoint.manager import Checkpoints
from train.config import CheckpointConfig, ConfigError
from train.learn.tasks import Classify
from train.run.fit import fit

HOLD = """
import sys, time
from pathlib import Path
from train.checkpoint.lock import RunLock
with RunLock(Path(sys.argv[1])) as lock:
    assert lock.take()
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock of `tmp_path`, until it reads a line."""
    args = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(args, env=environment(), **pipes) as child:
        assert child.stdout.readline() == "locked\n"
        yield child
        child.kill()


def test_another_process_is_named(tmp_path, other):
    with RunLock(tmp_path) as lock, pytest.raises(ConfigError) as caught:
        lock.take()
    host = os.uname().nodename
    said = rf"another process (pid {other.pid} on {host}, since "
    assert str(caught.value).startswith(said) and f"trains in {tmp_path};" in str(caught.value)


def test_training_is_refused_before_anything_is_written(tmp_path, other):
    (tmp_path / "config.json").write_text("{}")  # what it would read or replace
    with pytest.raises(ConfigError, match=r"another process .* trains in"):
        fit(tiny(), tmp_path, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "lock"]
    assert (tmp_path / "config.json").read_text() == "{}"


def test_who_trains(tmp_path, other):
    """Asking takes no lock from the one that has it, whatever the path is called."""
    again = tmp_path / "checkpoints" / ".."
    (tmp_path / "checkpoints").mkdir()
    for path in (tmp_path, again):
        assert str(who_trains(path)).startswith(f" (pid {other.pid} on {os.uname().nodename}, ")
    with RunLock(tmp_path) as lock, pytest.raises(ConfigError, match="another process"):
        lock.take()
    assert who_trains(tmp_path / "none") is None
    other.communicate("\n")
    assert who_trains(tmp_path) is None


def test_asking_keeps_the_own_lock(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with RunLock(tmp_path) as lock:
        lock.take()
        assert who_trains(tmp_path / "checkpoints" / "..") == " (this process)"
        args = [sys.executable, "-c", HOLD, str(tmp_path)]
        done = subprocess.run(args, env=environment(), capture_output=True, text=True, check=False)
        assert "another process" in done.stderr


def test_a_run_in_training_without_a_checkpoint(tmp_path, other):
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(), Classify())
    said = (
        rf"no checkpoint in it yet. The run is in training \(pid {other.pid} on .*first evaluation"
    )
    with pytest.raises(ConfigError, match=said):
        checkpoints.restore_weights("best", SingleDeviceSharding(jax.devices()[0]))


def test_a_dead_process_has_no_lock(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == other.pid
    with RunLock(tmp_path) as lock:
        assert lock.take() and not lock.take()
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_nothing_is_left_behind(tmp_path, other):
    other.communicate("\n")
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        with RunLock(tmp_path) as lock:
            assert lock.take()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_locked_when_it_is(tmp_path):
    with RunLock(tmp_path / "run") as lock:
        assert not lock.take()
        (tmp_path / "run").mkdir()
        assert lock.take()


def test_two_runs_of_one_process(tmp_path):
    """To its own process a lock is no obstacle; and closing the file would drop it."""
    with RunLock(tmp_path) as lock:
        lock.take()
        with RunLock(tmp_path) as second, pytest.raises(ConfigError, match="in this process"):
            second.take()
        assert run_child(tmp_path).returncode == 1


def run_child(workdir: Path) -> subprocess.CompletedProcess[str]:
    args = [sys.executable, "-c", HOLD, str(workdir)]
    return subprocess.run(args, env=environment(), input="\n", capture_output=True, text=True)


def test_a_file_that_its_owner_removes_in_between(tmp_path, monkeypatch):
    """The lock of a file that is no longer the directory's keeps nobody out."""
    original, opened = os.open, []

    def open_and_lose(path, *args):
        descriptor = original(path, *args)
        if not opened:
            Path(path).unlink()
        opened.append(path)
        return descriptor

    monkeypatch.setattr("train.checkpoint.lock.os.open", open_and_lose)
    with RunLock(tmp_path) as lock:
        assert lock.take()
        assert len(opened) == 2
        assert run_child(tmp_path).returncode == 1


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """Such as a library's own processes, which outlive a SIGKILL of the training."""
    script = HOLD.replace(
        'print("locked", flush=True)',
        "import os; pid = os.fork() or (time.sleep(60), os._exit(0)); print(pid, flush=True)",
    )
    args = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(
        args, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        forked = int(child.stdout.readline())
        child.kill()
        child.wait()
        try:
            os.kill(forked, 0)  # it is there
            with RunLock(tmp_path) as lock:
                assert lock.take()
        finally:
            os.kill(forked, signal.SIGKILL)


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", without)
    with RunLock(tmp_path) as lock:
        assert not lock.take()
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path / 'lock'} cannot be locked (No locks available)")


TAKE_SOME = """
import json, sys, time
from pathlib import Path
from train.checkpoint.manager import Checkpoints
from train.config import CheckpointConfig, ConfigError
from train.checkpoint.lock import RunLock
spans, end = [], float(sys.argv[2])
while time.monotonic() < end or not spans:
    try:
        with RunLock(Path(sys.argv[1])) as lock:
            lock.take()
            start = time.monotonic()
            time.sleep(0.002)
            spans.append((start, time.monotonic()))
    except ConfigError:
        time.sleep(0.001)
print(json.dumps(spans))
"""


def test_many_at_once(tmp_path):
    """Of processes that start together, one at a time has it, and none breaks."""
    args = [sys.executable, "-c", TAKE_SOME, str(tmp_path), str(time.monotonic() + 3)]
    children = [subprocess.Popen(args, env=environment(), stdout=subprocess.PIPE) for _ in range(4)]
    found = [json.loads(child.communicate()[0]) for child in children]
    assert all(found) and all(child.returncode == 0 for child in children)
    spans = sorted(span for each in found for span in each)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_full_disk_takes_no_lock_away(tmp_path, monkeypatch, capsys):
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with RunLock(tmp_path) as lock:
        assert lock.take()
        assert (tmp_path / "lock").read_bytes() == b""  # nobody can be named
    assert capsys.readouterr() == ("", "")
