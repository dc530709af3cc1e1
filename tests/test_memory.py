"""train/memory.py: how many heaps glibc has, by its own account."""

import subprocess
import sys

import pytest

from tests.runs import environment

CHILD = """
import ctypes, sys, threading
from train.memory import give_back, limit_arenas
if sys.argv[1] == "limited":
    limit_arenas()
libc = ctypes.CDLL(None)
libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(6)
def work():
    together.wait()
    libc.malloc(100)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
give_back()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize("how", ["limited", "as it is", "by the environment"])
def test_heaps(tmp_path, how):
    env = environment()
    env.pop("MALLOC_ARENA_MAX", None)
    if how == "by the environment":
        env["MALLOC_ARENA_MAX"] = "4"
        command = [sys.executable, "-c", CHILD, "limited", str(tmp_path / "info")]
    else:
        command = [sys.executable, "-c", CHILD, how, str(tmp_path / "info")]
    subprocess.run(command, env=env, check=True, timeout=60)
    heaps = (tmp_path / "info").read_text().count("<heap nr=")
    assert {"limited": heaps == 2, "as it is": heaps > 4, "by the environment": heaps == 4}[how]
