"""The systems that are compared, and how to make a training step of each."""

import importlib.util
import math
import time
from collections.abc import Sequence
from typing import Any, Protocol

from train.config import ConfigError, RunConfig
from train.runtime import set_xla_flags

NEEDS: dict[str, dict[str, str]] = {
    "ours": {},
    "ours-plain-norm": {},
    "flax": {},
    "haiku": {"haiku": "dm-haiku", "jmp": "jmp"},
    "jax-resnet": {"jax_resnet": "jax-resnet"},
    "keras": {"keras": "keras"},
    "torchvision": {"torch": "torch", "torchvision": "torchvision"},
    "torchvision-compile": {"torch": "torch", "torchvision": "torchvision"},
}
"""Of each system, the modules that it imports, and the packages that have them."""

WITH_FLAGS = "+flags"
"""Suffix, as in flax+flags: the process has the XLA_FLAGS and malloc settings of ours."""


class Stepper(Protocol):
    """Compiled training steps of a system, with state and data on the device."""

    facts: dict[str, Any]
    """Facts before the measurement."""

    def advance(self, count: int) -> float:
        """Runs `count` steps, waits for all their results, and returns the last loss."""

    def end(self) -> dict[str, Any]:
        """Facts after the measurement: device, peak memory."""


def check_systems(names: Sequence[str]) -> None:
    """Raises `ConfigError` for an unknown name."""
    for name in names:
        if name.removesuffix(WITH_FLAGS) not in NEEDS:
            known = ", ".join(NEEDS)
            raise ConfigError(
                f"peer {name!r}: choose from {known}, or a peer in JAX with {WITH_FLAGS}"
            )


def missing(name: str) -> str | None:
    """An install hint for a missing system; None: it is installed."""
    modules = NEEDS[name.removesuffix(WITH_FLAGS)]
    absent = [package for module, package in modules.items() if not _found(module)]
    return f"not installed: pip install {' '.join(absent)}" if absent else None


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def make_stepper(name: str, config: RunConfig, devices: int = 1) -> Stepper:
    """Builds and compiles a system's step, and runs the first one.

    Raises:
      ConfigError: this machine has fewer devices.
      Unsupported: the system does not have the network.
    """
    name = name.removesuffix(WITH_FLAGS)
    if name.startswith("torchvision"):
        from benchmarks.systems.torch_systems import TorchStepper

        return TorchStepper(config, compiled=name.endswith("compile"))
    return JaxStepper(name, config, devices)


class JaxStepper:
    """A step of `jax_systems`."""

    def __init__(self, name: str, config: RunConfig, devices: int = 1) -> None:
        if name.startswith("ours"):
            set_xla_flags()  # as `resnet-jax train` does
        import jax

        from benchmarks.systems.jax_systems import BUILDERS
        from train.plan.compile import compiler_stats

        here = jax.devices()
        if len(here) < devices:
            raise ConfigError(f"devices {devices}: this machine has {len(here)}")
        since = time.perf_counter()
        self._device = here[0]
        program = BUILDERS[name](config, here[:devices])
        built = time.perf_counter()
        traced = program.step.trace(program.abstract_state, program.abstract_batch)
        lowered = traced.lower()
        then = time.perf_counter()
        self._step = lowered.compile()
        now = time.perf_counter()
        self._state, self._batch, self._loss = program.state(), program.batch(), program.loss
        jax.block_until_ready((self._state, self._batch))
        self.advance(1)
        self.facts: dict[str, Any] = {
            "trace_seconds": then - built,
            "compile_seconds": now - then,
            "first_step_seconds": time.perf_counter() - since,
            **compiler_stats(self._step),
        }

    def advance(self, count: int) -> float:
        import jax

        for _ in range(count):
            self._state, out = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, out))
        return float(self._loss(out))

    def end(self) -> dict[str, Any]:
        memory = self._device.memory_stats() or {}
        return {
            "device": self._device.device_kind,
            "peak_memory_bytes": memory.get("peak_bytes_in_use"),
        }


def warm_up(stepper: Stepper, seconds: float) -> tuple[int, int]:
    """Runs steps for `seconds`, at least two: (steps done, steps per timing sample).

    A timing sample takes at least a tenth of a second, so that the resolution of the clock and the
    wait for the last step are negligible.
    """
    done, since = 0, time.perf_counter()
    fastest = math.inf
    while done < 2 or time.perf_counter() - since < seconds:
        before = time.perf_counter()
        stepper.advance(1)
        fastest = min(fastest, time.perf_counter() - before)
        done += 1
    return done, max(1, math.ceil(0.1 / fastest))
