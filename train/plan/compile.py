"""What XLA's compiler says of a run's training step: memory, FLOPs, collectives. No step is run."""

import math
import re
import time
from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np

from train.config import ConfigError, MeshConfig, RunError
from train.distributed.mesh import by_example, make_mesh
from train.plan import hlo
from train.run.parts import Run


def compile_step(run: Run, platform: str, usable: int) -> tuple[dict[str, Any], str]:
    """Compiles a run's training step for its mesh: (what the compiler says, the program's text).

    A step that needs more than `usable` bytes of a chip is an answer: "fits" is then false, and
    where the compiler gave up, the text is empty.

    Raises:
      ConfigError: the network does not take images of `data.image_size`.
      RunError: the compiler fails for another reason.
    """
    since = time.perf_counter()
    state, batch = _abstract_state(run), abstract_batch(run)
    parts = {
        "parameters": shard_bytes(state.params),
        "statistics": shard_bytes(state.batch_stats),
        "optimiser": shard_bytes(state.opt_state),
        "ema": shard_bytes(state.ema),
        "batch": shard_bytes(batch),
    }
    try:
        lowered = run.train_step.trace(state, batch).lower(lowering_platforms=(platform,))
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise RunError(f"XLA cannot compile this step: {error}") from None
        peak, limit = memory_in(str(error))
        memory = {**parts, "peak": peak, "usable": limit or usable}
        return {"fits": False, "memory": memory, "compiler_says": str(error).splitlines()[0]}, ""
    found, text = compiled.memory_analysis(), compiled.as_text()
    # XLA's own counts take the body of a loop once.
    cost = {} if run.config.scans else compiled.cost_analysis() or {}
    peak = peak_bytes(found)
    memory = {
        **parts,
        "temporaries": found.temp_size_in_bytes,
        "other": peak - found.temp_size_in_bytes - sum(parts.values()),
        "peak": peak,
        "usable": usable,
    }
    traffic = hlo.hbm_bytes(text)
    return {
        "fits": peak <= usable,
        "compile_seconds": round(time.perf_counter() - since, 1),
        "memory": memory,
        "flops": cost.get("flops") or _flops_before(run, platform),
        "flops_of": "the program" if cost.get("flops") else "the program before optimisation",
        "bytes_accessed": cost.get("bytes accessed"),
        "hbm_bytes": sum(traffic.values()),
        "hbm_bytes_by_kind": dict(traffic.most_common(5)),
        "collectives": {k: asdict(v) for k, v in hlo.collectives(text, run.mesh.size).items()},
        "custom_calls": dict(hlo.custom_calls(text).most_common(8)),
        "fusions": hlo.fusions(text),
    }, text


def _abstract_state(run: Run) -> Any:
    try:
        return run.abstract_state
    except ConfigError:
        raise
    except ValueError as error:
        name, size = run.config.model.name, run.config.data.image_size
        raise ConfigError(f"{name} at data.image_size {size}: {error}") from None


def abstract_batch(run: Run) -> dict[str, Any]:
    """The shapes of a global batch as the pipeline delivers it, with their sharding."""
    count, size = run.config.batch_size, run.config.data.image_size
    shapes = {
        "image": ((count, size, size, run.splits.train.channels), np.uint8),
        "label": ((count,), np.int32),
        "mask": ((count,), np.float32),
    }
    where = by_example(run.mesh)
    return {k: jax.ShapeDtypeStruct(*v, sharding=where) for k, v in shapes.items()}


def peak_bytes(found: Any) -> int:
    """What a device holds while a program runs, by its `memory_analysis()`."""
    # What comes out and is no argument's buffer, such as the metrics' sums
    fresh = found.output_size_in_bytes - found.alias_size_in_bytes
    code = found.generated_code_size_in_bytes
    return found.argument_size_in_bytes + found.temp_size_in_bytes + fresh + code


def shard_bytes(tree: Any) -> int:
    """Bytes of one device's part of a tree of shapes with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def _flops_before(run: Run, platform: str) -> float | None:
    """FLOPs of one chip's step before optimisation, where the compiler does not count its own.

    XLA counts them on the CPU's client, so the step is lowered once more, for one chip's images and
    without loops.
    """
    share = run.config.batch_size // run.mesh.size
    plain: Any = {"norm_group_size": None, "scan": False, "mesh": MeshConfig()}
    config = replace(run.config, batch_size=share, **plain)
    one = Run(config, mesh=make_mesh(jax.devices("cpu")[:1]), splits=run.splits)
    traced = one.train_step.trace(one.abstract_state, abstract_batch(one))
    cost = traced.lower(lowering_platforms=(platform,)).cost_analysis()
    return cost["flops"] if cost else None


def memory_in(message: str) -> tuple[int | None, int | None]:
    """(bytes needed, bytes there) of libtpu's message that a program does not fit, if it says so.

    What it calls temporaries is all of it: arguments and results are counted too (libtpu 0.0.42 and
    0.0.52, tried with programs of known size).

    >>> memory_in("HLO temporaries (20.50G) exceeds available HBM (15.75G)")
    (22011707392, 16911433728)
    """
    size = r"\(([\d.]+)([KMGT])\)"
    found = re.search(rf"{size} exceeds available HBM {size}", message)
    if not found:
        return None, None
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    needed, there = (int(float(found[i]) * units[found[i + 1]]) for i in (1, 3))
    return needed, there
