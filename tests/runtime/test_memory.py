"""train/runtime.py: how many heaps glibc has, and what it keeps, by the system's own account."""

import json
import subprocess
import sys

import pytest

from tests.runs import environment

CHILD = """
import ctypes, json, resource, sys, threading
from train.runtime import trim_heap, set_malloc
if sys.argv[1] == "set":
    set_malloc()
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
trim_heap()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
heaps = open(sys.argv[2]).read().count("<heap nr=")

def block(n=100 << 20):  # as large as a step's temporaries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    at = ctypes.c_void_p(libc.malloc(n))
    ctypes.memset(at, 1, n)
    libc.free(at)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults = []
def blocks():
    faults.extend(block() for _ in range(3))
thread = threading.Thread(target=blocks)
thread.start()
thread.join()
print(json.dumps({"heaps": heaps, "faults": faults}))
"""


def child(tmp_path, how: str, **extra: str) -> dict:
    env = {k: v for k, v in environment().items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", CHILD, how, str(tmp_path / "info")]
    done = subprocess.run(
        command, env={**env, **extra}, check=True, timeout=60, capture_output=True, text=True
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize(
    ("how", "extra", "heaps", "keeps"),
    [
        ("set", {"JAX_PLATFORMS": "cpu"}, 1, True),
        ("set", {"JAX_PLATFORMS": "cuda"}, 2, False),
        ("set", {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "4"}, 4, False),
        ("as it is", {"JAX_PLATFORMS": "cpu"}, 7, False),
    ],
    ids=["CPU", "GPU", "by the environment", "as it is"],
)
def test_heaps(tmp_path, how, extra, heaps, keeps):
    found = child(tmp_path, how, **extra)
    assert found["heaps"] == heaps
    first, *again = found["faults"]
    pages = (100 << 20) // 4096
    huge = pages // 512  # of 2 MiB, where the system gives such to whoever asks
    assert first > huge / 2
    assert all(n < huge / 2 if keeps else n > huge / 2 for n in again), found
