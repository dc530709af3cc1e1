"""train/data/retry.py: the errors that are retried, the waiting times, and the limit."""

import errno
import os
from types import SimpleNamespace

import pytest

from train.config import RunError
from train.data import retry
from train.data.retry import as_os_error, is_temporary, read_again


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The requested waiting times, without waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


class Failing:
    """A read that raises `error` the first `times` times, then returns 17."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.reads = error, times, 0

    def __call__(self) -> int:
        self.reads += 1
        if self.reads <= self.times:
            raise self.error
        return 17


def test_waits_double_up_to_ten_seconds(waits):
    read = Failing(OSError(errno.EIO, "Input/output error"), 9)
    assert read_again(read, 9, "a.png") == (17, 9)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]


def test_what_lasts_ends_the_run_with_name_reason_and_tries(waits):
    read = Failing(OSError(errno.ESTALE, "Stale file handle", "/mnt/a.png"), 4)
    with pytest.raises(RunError) as error:
        read_again(read, 3, "cats/a.png")
    assert read.reads == 4 and waits == [0.1, 0.2, 0.4]
    message = str(error.value)
    assert message.startswith("cats/a.png: ") and "Stale file handle" in message
    assert "tried 4 times" in message and "data.retries" in message


def test_no_retry_is_one_try(waits):
    with pytest.raises(RunError, match="tried 1 times"):
        read_again(Failing(TimeoutError(), 1), 0, "a")
    assert waits == []


def test_any_number_of_retries(waits):
    assert read_again(Failing(TimeoutError(), 3000), 3000, "a") == (17, 3000)
    assert max(waits) == 10


PASSING = ["EIO", "ETIMEDOUT", "ESTALE", "EAGAIN", "EBUSY", "EINTR", "ECONNRESET", "ECONNABORTED"]
PASSING += ["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "ENETDOWN", "EPIPE", "ENOTCONN"]
PASSING += ["EMFILE", "ENFILE", "ENOMEM"]


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(waits, name):
    number = getattr(errno, name)
    assert read_again(Failing(OSError(number, os.strerror(number)), 1), 5, "a") == (17, 1)


@pytest.mark.parametrize("name", ["ENOENT", "EACCES", "EPERM", "EISDIR", "ENOTDIR", "ELOOP"])
def test_what_stays_is_raised_at_once(waits, name):
    error = OSError(getattr(errno, name), "no")
    read = Failing(error, 9)
    with pytest.raises(OSError) as raised:
        read_again(read, 5, "a")
    assert raised.value is error and read.reads == 1 and waits == []


def test_errors_without_a_number():
    assert is_temporary(TimeoutError()) and is_temporary(ConnectionError("reset by peer"))
    assert not is_temporary(OSError("image file is truncated"))
    assert not is_temporary(ValueError("Input/output error"))


def test_words_of_the_system_are_understood():
    text = "pread() failed: Input/output error; reading a.array_record; at byte 11940"
    assert as_os_error(text).errno == errno.EIO and text in str(as_os_error(text))
    assert isinstance(as_os_error("open() failed: Connection timed out"), TimeoutError)
    other = as_os_error("Corrupted Riegeli/records file: chunk header hash mismatch")
    assert other.errno is None and not is_temporary(other)
