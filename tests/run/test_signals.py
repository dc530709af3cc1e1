"""Signals: answered at once, also while the main thread computes; what a second one does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.runs import environment
from train.distributed.signals import StopSignal

LISTEN = """
import hashlib, os, signal, sys, time
from train.distributed.signals import StopSignal
with StopSignal().install() as stop:
    print("listening", flush=True)
    {wait}
    print(stop.signal, flush=True)
"""
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)"
"""As a compiler does, it keeps the main thread for minutes, and lets others run."""
IDLE = "sys.stdin.readline()"
SAID = "{}: stopping after this step (again: at once, without saving)\n"
SAID_OF_SIGHUP = "SIGHUP: stopping after this step\n"
AGAIN = "{} again: ended at once; what came after the last checkpoint is lost\n"


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    """Whatever this process was started to ignore, its children are not."""
    old = {s: signal.signal(s, signal.SIG_DFL) for s in (signal.SIGHUP, signal.SIGTERM)}
    old[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


def listening(wait: str, ignore: int | None = None) -> subprocess.Popen[str]:
    script = LISTEN.format(wait=wait)
    if ignore:
        script = f"import signal\nsignal.signal({int(ignore)}, signal.SIG_IGN)\n{script}"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    child = subprocess.Popen([sys.executable, "-c", script], env=environment(), text=True, **pipes)
    assert child.stdout.readline() == "listening\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_answers_while_the_main_thread_is_busy(number):
    with listening(BUSY) as child:
        since = time.monotonic()
        child.send_signal(number)
        assert child.stderr.readline() == SAID.format(number.name)
        child.send_signal(number)
        assert child.wait(10) == 128 + number
        assert time.monotonic() - since < 5
        assert (child.stdout.read(), child.stderr.read()) == ("", AGAIN.format(number.name))


def test_hanging_up_twice_is_once():
    """A shell and the kernel each send one when a terminal is closed."""
    with listening(IDLE) as child:
        for _ in range(3):
            child.send_signal(signal.SIGHUP)
            time.sleep(0.1)
        assert child.communicate("\n") == ("SIGHUP\n", SAID_OF_SIGHUP)
        assert child.returncode == 0


def test_nohup_goes_on():
    with listening(IDLE, ignore=signal.SIGHUP) as child:
        child.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert child.communicate("\n") == ("None\n", "")


def test_the_first_signal_is_the_reason():
    with listening(IDLE) as child:
        child.send_signal(signal.SIGHUP)
        child.stderr.readline()
        child.send_signal(signal.SIGTERM)
        child.stderr.readline()
        assert child.communicate("\n")[0] == "SIGHUP\n"


def test_handlers_and_threads_are_put_back(capfd):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(s) for s in numbers]
    files = sorted(os.listdir("/proc/self/fd"))
    with StopSignal().install() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        end = time.monotonic() + 5
        while stop.signal is None and time.monotonic() < end:
            time.sleep(0.01)
        assert stop.signal == "SIGHUP"
    assert [signal.getsignal(s) for s in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert sorted(os.listdir("/proc/self/fd")) == files
    assert capfd.readouterr().err == SAID_OF_SIGHUP


def test_other_signals_are_none_of_its_business():
    seen: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    with StopSignal().install() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.1)
    signal.signal(signal.SIGUSR1, old)
    assert seen == [signal.SIGUSR1] and stop.signal is None
