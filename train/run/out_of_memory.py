"""Error messages for a device, or the host, that is out of memory."""

import contextlib
import os
import re
import resource
from collections.abc import Callable, Iterator

import jax

from train.config import RunError
from train.distributed.mesh import round_up
from train.run.memory import (
    Footprint,
    abstract_batch,
    memory_in,
    peak_bytes,
    shard_bytes,
    suggestions,
)
from train.run.parts import Run

_MARGIN = 0.9  # share of the memory for a suggested batch, whose temporaries may differ

Explain = Callable[[str], str]
"""Error message of XLA or Python -> advice."""


@contextlib.contextmanager
def explained(explain: Explain) -> Iterator[None]:
    """Turns a failed allocation into a `RunError` that gives its size, the memory and advice.

    Other errors pass unchanged.
    """
    try:
        yield
    except MemoryError as error:
        said = str(error) or "an allocation failed"
        raise RunError(f"out of memory on the host: {said}. {explain(said)}") from None
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        if "RESOURCE_EXHAUSTED" not in said:
            raise
        first = said.splitlines()[0].partition("RESOURCE_EXHAUSTED:")[2].strip()
        raise RunError(
            f"out of memory: {_readable(first)} {_capacity()}. {explain(said)}"
        ) from None


def _readable(message: str) -> str:
    """A message with its bytes in GiB.

    >>> _readable("Out of memory while trying to allocate 4831838208 bytes.")
    'Out of memory while trying to allocate 4.50 GiB.'
    """
    return re.sub(r"\b(\d+) ?bytes", lambda found: _gib(int(found[1])), message)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def _capacity() -> str:
    device = jax.local_devices()[0]
    used = (device.memory_stats() or {}).get("bytes_in_use")
    taken = f", {_gib(used)} in use" if used else ""
    return f"{device.device_kind} has {_gib(usable())}{taken}"


def usable() -> int:
    """Bytes of a device that programs may use; for a CPU, the memory of the host."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit:
        return int(limit)
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return host if soft == resource.RLIM_INFINITY else min(host, soft)


def for_training(run: Run) -> Explain:
    """Suggests options with which a training step should fit, from the compiler's report."""
    config, devices = run.config, run.mesh.size
    batch = config.batch_size

    def explain(said: str) -> str:
        what = (
            f"The step of {config.model.name} takes {batch} images of {config.data.image_size} "
            f"pixels, {batch // devices} on each device, in {config.precision}"
        )
        peak = memory_in(said)[0] or _compiled_peak(run)
        if peak is None or peak <= usable():
            # Another program uses the memory, or the peak is unknown.
            needs = f", and needs {_gib(peak)} according to the compiler" if peak else ""
            return f"{what}{needs}. {_smaller('batch_size', batch, run)}"
        state = run.abstract_state
        parameters = shard_bytes(state.params)
        shared = shard_bytes(state.opt_state) + shard_bytes(state.ema)
        rest = max(peak - 2 * parameters - shared, 0)
        fit = suggestions(
            Footprint(parameters, parameters, shared, rest),
            int(_MARGIN * usable()),
            batch_per_chip=batch // devices,
            chips=devices,
            fsdp=config.mesh.fsdp,
        )
        found = " or ".join(fit)
        advice = f"{found} should fit" if fit else "Choose a smaller network or smaller images"
        return f"{what}, and needs {_gib(peak)} according to the compiler. {advice}"

    return explain


def for_evaluation(run: Run, batch_size: int) -> Explain:
    """Suggests half of the evaluation batch."""
    return lambda _: f"This was the evaluation. {_smaller('eval.batch_size', batch_size, run)}"


def _smaller(option: str, batch: int, run: Run) -> str:
    half = round_up(max(batch // 2, 1), run.mesh)
    if half >= batch:
        return "Choose smaller images, a smaller network or another device"
    return f"Try --{option} {half}, and look for other programs that use the device"


def _compiled_peak(run: Run) -> int | None:
    """Peak bytes of a device while a step runs; None: unknown. The program is cached by now."""
    if jax.process_count() > 1:
        return None  # all processes would have to compile
    with contextlib.suppress(jax.errors.JaxRuntimeError, MemoryError):
        lowered = run.train_step.lower(run.abstract_state, abstract_batch(run))
        return peak_bytes(lowered.compile().memory_analysis())
    return None
