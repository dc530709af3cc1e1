"""Interleaved measurements: each system has a process, which waits while the others run."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.systems.registry import WITH_FLAGS, make_stepper, missing, warm_up
from benchmarks.workloads import Unsupported
from train.config import ConfigError, RunConfig
from train.config.serialize import from_json, to_json
from train.runtime import set_malloc

ENDED = "its process ended with exit code"
LATE = "not ready in time (--seconds)"
_MARK = "@bench "  # marks a message of the child process; libraries print too


@dataclass
class Sample:
    """A timing sample: seconds per step, as the mean over its steps, and the last loss."""

    seconds: float
    loss: float


class System:
    """A system in a child process, compiled and warmed up when the object is made.

    `absent` is the reason if the system is unavailable, else None. `facts` are the child's reports.
    """

    def __init__(
        self,
        name: str,
        config: RunConfig,
        *,
        devices: int = 1,
        warm_seconds: float = 1.0,
        env: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> None:
        """With `seconds`, a system that is not ready after this time is absent."""
        self.name, self.facts, self._process = name, dict[str, Any](), None
        self.absent = missing(name)
        if self.absent:
            return
        request = {"system": name, "config": to_json(config), "devices": devices}
        root = str(Path(__file__).parents[1])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.interleaved"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, **(env or {})},
        )
        timer = threading.Timer(seconds or 0, self._time_out)
        if seconds is not None:
            timer.start()
        reply = self._ask({**request, "warm_seconds": warm_seconds})
        timer.cancel()
        ended = reply.pop("absent", None)
        self.absent = self.absent or ended
        self.facts.update(reply)

    def _time_out(self) -> None:
        assert self._process
        self.absent = LATE
        self._process.kill()

    def _ask(self, request: Any) -> dict[str, Any]:
        assert self._process and self._process.stdin and self._process.stdout
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return {"absent": f"{ENDED} {self._process.wait()}"}
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        return {"absent": f"{ENDED} {self._process.wait()}"}

    def measure(self, samples: int) -> list[Sample] | None:
        """Takes timing samples; None if the process has ended (`absent` has the reason)."""
        reply = self._ask({"samples": samples})
        if "absent" in reply:
            self.absent = reply["absent"]
            return None
        return [Sample(*pair) for pair in reply["samples"]]

    def close(self) -> None:
        """Ends the process and adds its last report to `facts`."""
        if self._process is None:
            return
        if self._process.poll() is None and not self.absent:
            self.facts.update(self._ask({"end": True}))
        self._process.kill()
        with self._process:  # closes the pipes, and waits
            pass


def start_all(
    names: list[str],
    config: RunConfig,
    *,
    devices: int = 1,
    warm_seconds: float = 1.0,
    end: float | None = None,
) -> dict[str, System]:
    """Starts the systems one after the other.

    A system that is not ready at the time `end`, in seconds of `time.monotonic()`, is absent. On a
    GPU, each JAX process reserves memory when it starts; they get equal shares.
    """
    env = {}
    if len(names) > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
        env = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / len(names):.2f}"}
    systems: dict[str, System] = {}
    for name in names:
        extra = dict(env)
        flags = systems["ours"].facts.get("xla_flags") if "ours" in systems else None
        if name.endswith(WITH_FLAGS) and flags:
            extra["XLA_FLAGS"] = flags
        seconds = None if end is None else max(end - time.monotonic(), 0.0)
        systems[name] = System(
            name, config, devices=devices, warm_seconds=warm_seconds, env=extra, seconds=seconds
        )
    return systems


def _serve() -> None:
    """The child process: reads one request per line from stdin."""

    def reply(content: dict[str, Any]) -> None:
        print(_MARK + json.dumps(content), flush=True)

    request = json.loads(sys.stdin.readline())
    if request["system"].startswith("ours") or request["system"].endswith(WITH_FLAGS):
        set_malloc()  # as `resnet-jax train` does
    try:
        stepper = make_stepper(request["system"], from_json(request["config"]), request["devices"])
    except (ConfigError, Unsupported) as error:
        return reply({"absent": str(error)})
    done, each = warm_up(stepper, request["warm_seconds"])
    reply(
        {
            **stepper.facts,
            "warmup_steps": 1 + done,
            "steps_a_sample": each,
            "xla_flags": os.environ.get("XLA_FLAGS"),
        }
    )
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("end"):
            return reply(stepper.end())
        samples = []
        for _ in range(request["samples"]):
            since = time.perf_counter()
            loss = stepper.advance(each)
            samples.append(((time.perf_counter() - since) / each, loss))
        reply({"samples": samples})
    return None


if __name__ == "__main__":
    _serve()
