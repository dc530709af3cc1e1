"""Systems that take turns: each in a process of its own, waiting while the others run."""

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
_MARK = "@bench "  # of a line that is ours; libraries print too


@dataclass
class Sample:
    """Seconds of a step, as the mean over the steps of a timing sample."""

    seconds: float
    loss: float


class System:
    """The parent's end of a system's process, compiled and warm once it is built.

    `absent` says why it is not there; `facts` is what it says of itself.
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
        """With `seconds`, a system that is not ready by then is absent."""
        self.name, self.facts, self._process = name, dict[str, Any](), None
        self.absent = missing(name)
        if self.absent:
            return
        order = {"system": name, "config": to_json(config), "devices": devices}
        root = str(Path(__file__).parents[1])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.interleaved"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, **(env or {})},
        )
        late = threading.Timer(seconds or 0, self._end_late)
        if seconds is not None:
            late.start()
        said = self._ask({**order, "warm_seconds": warm_seconds})
        late.cancel()
        ended = said.pop("absent", None)
        self.absent = self.absent or ended
        self.facts.update(said)

    def _end_late(self) -> None:
        assert self._process
        self.absent = LATE
        self._process.kill()

    def _ask(self, order: Any) -> dict[str, Any]:
        assert self._process and self._process.stdin and self._process.stdout
        try:
            print(json.dumps(order), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return {"absent": f"{ENDED} {self._process.wait()}"}
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        return {"absent": f"{ENDED} {self._process.wait()}"}

    def turn(self, samples: int) -> list[Sample] | None:
        """So many timing samples; None where its process is no more, and `absent` says it."""
        said = self._ask({"samples": samples})
        if "absent" in said:
            self.absent = said["absent"]
            return None
        return [Sample(*pair) for pair in said["samples"]]

    def close(self) -> None:
        """Ends the process, and adds what it said at its end to `facts`."""
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
    """Starts the systems one after the other; what is not ready at `end`, of `time.monotonic()`,
    is absent.

    On a GPU each one of JAX's takes a part of the memory at its start: they share it.
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


def _work() -> None:
    """A system's process: one order a line on stdin."""

    def say(what: dict[str, Any]) -> None:
        print(_MARK + json.dumps(what), flush=True)

    order = json.loads(sys.stdin.readline())
    if order["system"].startswith("ours") or order["system"].endswith(WITH_FLAGS):
        set_malloc()  # as `resnet-jax train` does
    try:
        stepper = make_stepper(order["system"], from_json(order["config"]), order["devices"])
    except (ConfigError, Unsupported) as error:
        return say({"absent": str(error)})
    done, each = warm_up(stepper, order["warm_seconds"])
    say(
        {
            **stepper.facts,
            "warmup_steps": 1 + done,
            "steps_a_sample": each,
            "xla_flags": os.environ.get("XLA_FLAGS"),
        }
    )
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("end"):
            return say(stepper.end())
        samples = []
        for _ in range(order["samples"]):
            since = time.perf_counter()
            loss = stepper.advance(each)
            samples.append(((time.perf_counter() - since) / each, loss))
        say({"samples": samples})
    return None


if __name__ == "__main__":
    _work()
