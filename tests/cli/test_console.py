"""Output that nobody reads, or that has no room, ends nothing."""

import errno
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import environment
from train.console import SafeStream, safe_output

RECIPES = f"{sys.executable} -m train recipes"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Of a pipeline, the exit code is its first failure's."""
    command = ["bash", "-c", f"set -o pipefail; {line}"]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def in_python(script: str, after: str = "") -> subprocess.CompletedProcess[str]:
    """A script under `safe_output`; `after` is what the shell does with its output."""
    inside = "\n".join(f"    {line}" for line in script.splitlines())
    whole = f"import os, sys\nfrom train.console import safe_output\nwith safe_output():\n{inside}"
    return shell(f"{sys.executable} -c {shlex.quote(whole)} {after}")


@pytest.mark.parametrize("after", ["| head -1", "| true", ">&-"])
def test_a_command_is_done_when_nobody_reads(after):
    done = shell(f"{RECIPES} {after}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["recipes", "models", "models resnet18", "--version"])
def test_a_result_that_is_lost_is_an_error(command):
    done = shell(f"{sys.executable} -m train {command} > /dev/full")
    message = "error: the output could not be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize(("command", "code"), [("train", 0), ("eval", 1)])
def test_the_progress_of_a_training_may_be_lost(command, code):
    """Called with the command replaced by one that prints."""
    script = "import sys, train.__main__ as m\n"
    script += f"m.COMMANDS[{command!r}] = lambda args: print('{{}}')\n"
    script += f"sys.exit(m.main([{command!r}]))"
    done = shell(f"{sys.executable} -c {shlex.quote(script)} > /dev/full")
    assert done.returncode == code


@pytest.mark.parametrize(
    ("number", "lost"), [(errno.ENOSPC, True), (errno.EIO, True), (errno.EPIPE, False)]
)
def test_which_output_is_lost(number, lost):
    stream = SafeStream(Broken(OSError(number, os.strerror(number))))
    stream.write("text")
    assert stream.lost == (os.strerror(number) if lost else None)


def test_an_error_is_told_without_stdout():
    done = shell(f"{sys.executable} -m train models nope* >&-")
    assert done.returncode == 2 and done.stderr.startswith("error: no model matches")


def test_exit_codes_survive_without_stderr():
    assert shell(f"{sys.executable} -m train models nope* 2>&-").returncode == 2
    assert shell(f"{sys.executable} -m train models nope* 2>/dev/full").returncode == 2


def test_what_comes_after_a_reader_has_gone():
    done = in_python("print('x' * 100_000, flush=True)\nprint('y')\nsys.exit(3)", "| head -c 1")
    assert (done.returncode, done.stdout, done.stderr) == (3, "x", "")


def test_a_disk_that_has_room_again(tmp_path):
    """What came while it was full is lost, not what comes after it."""
    script = (
        "target = os.dup(1)\n"
        "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
        "print('lost' * 10_000, flush=True)\n"
        "os.dup2(target, 1)\n"
        "print('there', flush=True)"
    )
    done = in_python(script)
    assert done.returncode == 0 and done.stdout.endswith("there\n") and not done.stderr


def test_a_terminal_that_was_closed():
    """Reading and writing give EIO then."""
    main, terminal = pty.openpty()
    script = "import sys; sys.stdin.readline(); print('x' * 10_000, flush=True)"
    args = [sys.executable, "-c", f"from train.console import *\nwith safe_output(): {script}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": terminal, "stderr": subprocess.PIPE}
    with subprocess.Popen(args, env=environment(), **pipes) as child:
        os.close(terminal)
        os.close(main)
        assert child.communicate(b"\n")[1] == b"" and child.returncode == 0


@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", "0<&- >&- 2>&-"])
def test_a_file_never_gets_the_number_of_a_standard_stream(tmp_path, closed):
    """A checkpoint that is descriptor 2 would hold what XLA prints."""
    path = tmp_path / "file"
    script = f"file = open({str(path)!r}, 'wb', 0)\nfile.write(b'%d' % file.fileno())\n"
    script += "print('out')\nprint('err', file=sys.stderr)\nos.write(1, b'1')\nos.write(2, b'2')"
    assert in_python(script, closed).returncode == 0
    assert int(path.read_text()) > 2


def test_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    with safe_output():
        assert isinstance(sys.stdout, SafeStream) and isinstance(sys.stderr, SafeStream)
        first = sys.stdout
        with safe_output():
            assert sys.stdout is first
        assert sys.stdout is first
        print("there")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "there\n"


class Broken:
    """A stream that has no descriptor, and gives an error."""

    encoding = "latin-1"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, text: str) -> None:
        raise self.error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EAGAIN])
def test_no_error_comes_through(number):
    stream = SafeStream(Broken(OSError(number, os.strerror(number))))
    assert stream.write("text") == 4
    stream.writelines(["a", "b"])
    stream.flush()
    stream.finish()
    assert stream.encoding == "latin-1"


def test_a_closed_stream(tmp_path: Path):
    file = (tmp_path / "file").open("w")
    file.close()
    SafeStream(file).write("text")


def test_what_cannot_be_encoded_is_an_error_still():
    with pytest.raises(UnicodeEncodeError):
        SafeStream(Broken(UnicodeEncodeError("ascii", "ü", 0, 1, "no"))).write("ü")
