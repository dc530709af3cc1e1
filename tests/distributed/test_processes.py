"""Several processes connect, agree, stop together and end together.

Most of this needs no JAX, so the processes are threads in some tests here;
`tests/distributed/test_distributed.py` trains with real processes.
"""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.distributed.test_launchers import OPEN_MPI, SLURM
from tests.runs import command, environment
from train.config import ConfigError, MeshConfig, RunError
from train.distributed import multi_process
from train.distributed.coordination import Client, Server, connect
from train.distributed.initialize import start
from train.distributed.launchers import ProcessInfo
from train.distributed.multi_process import MultiProcess
from train.distributed.processes import Processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_all(count: int, body: Callable[[MultiProcess], Any]) -> list[Any]:
    """The results of `body` in each of `count` processes, which are threads here."""
    port, results, errors = free_port(), [None] * count, []

    def one(index: int) -> None:
        try:
            own = MultiProcess(ProcessInfo("127.0.0.1", port, count, index))
            own._client.wait(own._keys("joined"), 10)
            results[index] = body(own)
            own.leave()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(k,), daemon=True) for k in range(count)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 30
    while any(thread.is_alive() for thread in threads) and not errors:
        assert time.monotonic() < end, "a process waits for ever"
        time.sleep(0.01)
    if errors:
        raise errors[0]
    return results


def test_alone():
    with start(MeshConfig()) as alone:
        assert type(alone) is Processes and alone.is_writer
        assert alone.should_stop(3, None) is None and alone.should_stop(3, "SIGINT") == "SIGINT"
        assert alone.gather("x") == ["x"] and alone.broadcast(5) == 5
        assert alone.agree(True) and not alone.agree(False)
        alone.check_same("seed", 1)
    with pytest.raises(ConfigError, match=r"^as it was$"), start(MeshConfig()) as alone:
        raise ConfigError("as it was")


def test_what_processes_agree_on():
    def body(own: MultiProcess) -> tuple:
        k = own.index
        gathered = own.gather({"k": k})
        agreed = own.agree(k != 2), own.agree(True)
        own.barrier()
        with pytest.raises(ConfigError, match="seed: 7 in process 0, but 8 in process 2"):
            own.check_same("seed", 8 if k == 2 else 7)
        return gathered, agreed, own.broadcast(10 + k), own.is_writer

    results = run_all(3, body)
    for k, result in enumerate(results):
        assert result == ([{"k": 0}, {"k": 1}, {"k": 2}], (False, True), 10, k == 0)


def test_who_did_not_come_to_where_the_others_are(monkeypatch):
    monkeypatch.setattr(multi_process, "MEET_SECONDS", 0.3)

    def body(own: MultiProcess) -> None:
        if own.index == 0:
            with pytest.raises(RunError, match=r"processes 1, 3 did not reach .* within 0.3 s"):
                own.barrier()
        elif own.index == 2:
            with pytest.raises(RunError, match="processes 1, 3 did not reach"):
                own.barrier()
        else:
            time.sleep(0.6)

    run_all(4, body)


class Lockstep:
    """Simulates device steps: a process may be ahead, but its results wait for all processes."""

    def __init__(self, count: int) -> None:
        self.dispatched = [0] * count
        self.changed = threading.Condition()

    def dispatch(self, k: int) -> None:
        with self.changed:
            self.dispatched[k] += 1
            self.changed.notify_all()

    def fetch(self, step: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: min(self.dispatched) >= step, 20), "deadlock"


@pytest.mark.parametrize("total", [10_000, 60])
@pytest.mark.parametrize("fetches", [[7, 7, 7], [1, 10_000, 10_000], [10_000, 3, 50]])
def test_all_stop_before_the_same_step(total, fetches):
    """Processes fetch results at different steps, so some are many steps ahead of others."""
    lockstep = Lockstep(3)
    times: list[float] = []

    def body(own: MultiProcess) -> tuple[int, str | None]:
        k, since = own.index, time.perf_counter()
        for step in range(total):
            signal = "SIGTERM" if k == 1 and step >= 40 else None
            began = time.perf_counter()
            if reason := own.should_stop(step, signal):
                times.append(time.perf_counter() - since)
                return step, reason
            if step < 40:
                times.append(time.perf_counter() - began)
            lockstep.dispatch(k)
            if step % fetches[k] == fetches[k] - 1:
                lockstep.fetch(step + 1)
            time.sleep(0.0005 * (k + 1))
        return total, None

    results = run_all(3, body)
    assert len(set(results)) == 1, results
    step, reason = results[0]
    assert (40 <= step < 1000 and reason == "SIGTERM to process 1") or (step, reason) == (60, None)
    assert sorted(times)[len(times) // 2] < 1e-4


def test_a_signal_before_the_first_step():
    def body(own: MultiProcess) -> tuple[int, str | None]:
        time.sleep(0.2 * own.index)  # it compiles, and has not come to the loop
        step = 5
        while not (reason := own.should_stop(step, "SIGINT" if own.index == 0 else None)):
            step += 1
            time.sleep(0.02)
        return step, reason

    results = run_all(2, body)
    assert results[0] == results[1] and results[0][0] < 30


def joining(port: int, index: int, count: int, on_entry: Any = lambda key, value: None) -> Client:
    return Client("127.0.0.1", port, index=index, count=count, on_entry=on_entry, seconds=5)


def test_the_end_of_a_process_is_reported_to_all():
    port, entries = free_port(), []
    server = Server(port, 4)
    first = joining(port, 0, 4, lambda *entry: entries.append(entry))
    clients = [first, *(joining(port, k, 4) for k in (1, 2, 3))]
    for client in clients:
        client.wait([f"joined/{k}" for k in range(4)], 5)
    clients[1].put("done/1", True)
    clients[1].close()
    clients[2].put("failed/2", {"code": 2, "reason": "x"})
    clients[2].close()
    clients[3].close()
    first.wait(["done/1", "failed/2", "lost/3"], 5)
    first.close()
    server.wait_until_alone(5)
    server.close()
    assert ("lost/1", True) not in entries and ("lost/2", True) not in entries
    assert ("failed/2", {"code": 2, "reason": "x"}) in entries


def test_processes_that_do_not_fit_are_refused():
    port = free_port()
    server = Server(port, 3)
    first = joining(port, 0, 3)
    first.wait(["joined/0"], 5)
    with pytest.raises(ConfigError, match="process 1 expects 2 processes, but process 0 expects 3"):
        joining(port, 1, 2).wait(["joined/1"], 5)
    assert "process 1 expects 2 processes" in first.wait(["incomplete"], 5)[0]
    with pytest.raises(ConfigError, match=r"two processes have the index 0 \(mesh.process_id"):
        joining(port, 0, 3).wait(["joined/1"], 5)
    with connect("127.0.0.1", port, 5) as stranger:  # a port scanner, a browser
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(100) == b""
    others = [joining(port, 1, 3), joining(port, 2, 3)]
    others[1].wait(["joined/0", "joined/1", "joined/2"], 5)
    with pytest.raises(ConfigError, match="process 1 connected to a run that has all of its 3"):
        joining(port, 1, 3).wait(["joined/1"], 5)
    for client in (first, *others):
        client.close()
    server.wait_until_alone(5)
    server.close()


def test_nobody_listens():
    port = free_port()
    since = time.monotonic()
    with pytest.raises(RunError, match=rf"at 127.0.0.1:{port} within 1.5 s \(Connection ref"):
        connect("127.0.0.1", port, 1.5)
    assert time.monotonic() - since < 30
    with pytest.raises(RunError, match=r"cannot be reached at nowhere.invalid:1 within 1"):
        connect("nowhere.invalid", 1, 1)
    with socket.create_server(("", port)), pytest.raises(RunError, match="Address already in use"):
        Server(port, 2)


CHILD = """
import contextlib, os, sys, time
from train.config import ConfigError, MeshConfig, RunError
from train.distributed.initialize import start
from train.distributed import multi_process
multi_process.CONNECT_SECONDS = 4
multi_process.FOLLOW_SECONDS = multi_process.END_SECONDS = 1.0
config = MeshConfig(**eval(sys.argv[1]))
try:
    with start(config) as p:
        {body}
        import jax
        print(p.index, p.count, jax.process_index(), jax.process_count(), len(jax.devices()))
except (ConfigError, RunError) as error:
    print("error:", error, file=sys.stderr)
    sys.exit(2 if isinstance(error, ConfigError) else 1)
"""


def children(
    body: str, *of: tuple[dict[str, Any], dict[str, str]]
) -> list[subprocess.CompletedProcess[str]]:
    """Runs real processes, each with its config and environment variables, until they end."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD.format(body=body), repr(config)],
            env=environment(2, **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for config, variables in of
    ]
    done = []
    for child in started:
        out, err = child.communicate(timeout=60)
        done.append(subprocess.CompletedProcess(child.args, child.returncode, out, err))
    return done


def explicit(count: int, *of: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, str]]]:
    port = free_port()
    both = {"coordinator": f"localhost:{port}", "processes": count}
    return [({**both, "process_id": k, **change}, {}) for k, change in enumerate(of)]


@pytest.mark.parametrize("launcher", ["SLURM", "Open MPI"])
def test_processes_of_a_launcher_find_each_other(launcher):
    job = free_port() % 2**12
    if launcher == "SLURM":
        both = {**SLURM, "SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost"}
        names = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    else:
        both = {**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": f"{job * 2**12}.0;tcp://127.0.0.1:34911"}
        names = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    done = children(
        "pass",
        *(({}, {**both, **dict(zip(names, ("2", str(k), str(k)), strict=True))}) for k in (0, 1)),
    )
    for k, child in enumerate(done):
        assert (child.returncode, child.stderr) == (0, "")
        assert child.stdout.splitlines()[-1] == f"{k} 2 {k} 2 4"


def test_bad_input_of_one_process_ends_both():
    body = "if p.index == 1: raise ConfigError('b.png: not an image')\n        time.sleep(60)"
    first, second = children(body, *explicit(2, {}, {}))
    assert (second.returncode, second.stderr) == (2, "error: process 1: b.png: not an image\n")
    assert (first.returncode, first.stderr) == (
        2,
        "error: process 1 failed: b.png: not an image\n",
    )


def test_a_bug_ends_both_though_something_waits():
    """A failed process that waits for something while it exits ends in time, as do the others."""
    body = (
        "\n        if p.index: time.sleep(60)"
        "\n        with contextlib.ExitStack() as stack:"
        "\n            stack.callback(time.sleep, 60)"
        "\n            with p.reporting():"
        "\n                [].pop()"
    )
    since = time.monotonic()
    first, second = children(body, *explicit(2, {}, {}))
    reason = "IndexError: pop from empty list\n"
    assert (first.returncode, first.stderr) == (1, f"error: process 0: {reason}")
    assert (second.returncode, second.stderr) == (1, f"error: process 0 failed: {reason}")
    assert time.monotonic() - since < 40


def test_a_bug_is_traced():
    """Exit handlers of other libraries are not waited for: they may run a collective."""
    body = (
        "\n        if p.index == 0: time.sleep(60)"
        "\n        import atexit; atexit.register(time.sleep, 60)"
        "\n        [].pop()"
    )
    first, second = children(body, *explicit(2, {}, {}))
    assert first.stderr == "error: process 1 failed: IndexError: pop from empty list\n"
    assert second.returncode == 1 and "Traceback (most recent call last)" in second.stderr
    assert "error: process 1" not in second.stderr  # the last resort of one that does not end


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other(killed):
    """Also process 0, after whose end JAX's own client would abort with a stack trace."""
    body = f"if p.index == {killed}: os.kill(os.getpid(), 9)\n        time.sleep(60)"
    done = children(body, *explicit(2, {}, {}))
    other = done[1 - killed]
    said = f"error: process {killed} is gone: it was killed, or its machine or network failed. "
    said += f"{multi_process.AGAIN}\n"
    assert (done[killed].returncode, other.returncode, other.stderr) == (-9, 1, said)


def test_one_that_does_not_come():
    (only,) = children("pass", *explicit(3, {}))
    assert only.returncode == 1
    assert only.stderr == "error: process 0: processes 1, 2 of 3 did not connect within 4 s\n"


def test_a_signal_ends_the_waiting_for_others(tmp_path):
    """Of process 0, of a process that is connected, and of one that finds no process 0."""
    ports = (free_port(), free_port())
    options = ("train", "digits", "--workdir", str(tmp_path / "run"), "--mesh.processes", "3")
    first, second, lonely = (
        subprocess.Popen(
            command(
                *(*options, "--mesh.process_id", str(k)),
                *("--mesh.coordinator", f"localhost:{ports[alone]}"),
            ),
            env=environment(1),
            stderr=subprocess.PIPE,
            text=True,
        )
        for k, alone in ((0, 0), (1, 0), (1, 1))
    )
    missing = f"process 2 of 3 at localhost:{ports[0]}"
    nobody = f"process 0 of 3 at localhost:{ports[1]}"
    try:
        for child, who in ((second, missing), (lonely, nobody)):
            while (line := child.stderr.readline()) != f"warning: waiting for {who}\n":
                assert line.startswith("warning: waiting for process"), line  # not all had come yet
        since = time.monotonic()
        second.send_signal(signal.SIGINT)
        lonely.send_signal(signal.SIGTERM)
        again = "stopping after this step (again: at once, without saving)"
        assert lonely.communicate(timeout=90)[1] == (
            f"SIGTERM: {again}\nerror: stopped by SIGTERM while waiting for {nobody}\n"
        )
        why = f"stopped by SIGINT while waiting for {missing}"
        said = f"SIGINT: {again}\nerror: process 1: {why}\n"
        assert second.communicate(timeout=90)[1] == said
        assert time.monotonic() - since < 90  # they would wait for 120
        assert first.communicate(timeout=90)[1].endswith(f"error: process 1 failed: {why}\n")
        assert [child.returncode for child in (first, second, lonely)] == [1, 1, 1]
    finally:
        for child in (first, second, lonely):
            child.kill()
    assert not (tmp_path / "run").exists()


def test_two_that_are_the_same():
    done = children("pass", *explicit(3, {}, {}, {"process_id": 1}))
    assert [child.returncode for child in done] == [2, 2, 2]
    message = "two processes have the index 1 (mesh.process_id)\n"
    assert all(child.stderr.endswith(message) for child in done)


def test_a_late_process_is_waited_for():
    body = "time.sleep(3 * p.index)"
    since = time.monotonic()
    done = children(body, *explicit(2, {}, {}))
    assert [(child.returncode, child.stderr) for child in done] == [(0, "")] * 2
    assert time.monotonic() - since > 3
