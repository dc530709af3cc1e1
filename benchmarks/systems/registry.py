"""The systems that are measured side by side, and one training step of each."""

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
"""Name -> modules that it takes, and the packages that bring them."""

WITH_FLAGS = "+flags"
"""flax+flags: flax in a process that is set up as ours is: XLA_FLAGS and the heaps of malloc."""


class Stepper(Protocol):
    """Whole training steps of one system, compiled, its state and data on the device."""

    facts: dict[str, Any]
    """What is known before anything is measured."""

    def advance(self, count: int) -> float:
        """Dispatches so many steps and waits for all that they compute; the last one's loss."""

    def end(self) -> dict[str, Any]:
        """What is known at the end: device, peak memory."""


def check_systems(names: Sequence[str]) -> None:
    """Raises `ConfigError` for a name that is none."""
    for name in names:
        if name.removesuffix(WITH_FLAGS) not in NEEDS:
            known = ", ".join(NEEDS)
            raise ConfigError(
                f"peer {name!r}: choose from {known}, or one of JAX's with {WITH_FLAGS}"
            )


def missing(name: str) -> str | None:
    """What to install for a system that is not here; None: nothing."""
    modules = NEEDS[name.removesuffix(WITH_FLAGS)]
    absent = [package for module, package in modules.items() if not _found(module)]
    return f"not installed: pip install {' '.join(absent)}" if absent else None


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def make_stepper(name: str, config: RunConfig, devices: int = 1) -> Stepper:
    """Builds and compiles a system's step, and does the first one.

    Raises:
      ConfigError: there are fewer devices.
      Unsupported: it has no such network.
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
            raise ConfigError(f"devices {devices}: there are {len(here)} here")
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
    """Steps for so long, at least two: (steps done, steps that a timing sample should have).

    A sample lasts a tenth of a second at least, so that neither the clock nor the wait for the
    last of its steps counts for anything.
    """
    done, since = 0, time.perf_counter()
    fastest = math.inf
    while done < 2 or time.perf_counter() - since < seconds:
        before = time.perf_counter()
        stepper.advance(1)
        fastest = min(fastest, time.perf_counter() - before)
        done += 1
    return done, max(1, math.ceil(0.1 / fastest))
