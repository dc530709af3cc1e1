"""Memory, FLOPs and collectives of a training step, from XLA's compiler. No step is run."""

import time
from dataclasses import asdict, replace
from typing import Any

import jax

from train.config import ConfigError, MeshConfig, RunError
from train.distributed.mesh import make_mesh
from train.plan import hlo
from train.run.memory import abstract_batch, memory_in, peak_bytes, shard_bytes
from train.run.parts import Run


def compile_step(run: Run, platform: str, usable: int) -> tuple[dict[str, Any], str]:
    """Compiles a run's training step for its mesh.

    Args:
      platform: "tpu" or "cuda".
      usable: memory of a chip that a program can use, in bytes.

    Returns:
      The compiler's figures, and the text of the program. A step that needs more memory is not an
      error: then "fits" is false, and if the compiler ran out of memory, the text is empty.

    Raises:
      ConfigError: the network cannot process images of `data.image_size`.
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
    # XLA counts the body of a loop once, however often it runs.
    loops = run.config.scans or run.config.optim.accumulate > 1
    cost = {} if loops else compiled.cost_analysis() or {}
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


def _flops_before(run: Run, platform: str) -> float | None:
    """FLOPs of one chip's step before optimisation, for compilers that do not report FLOPs.

    XLA's CPU client counts them: the step is lowered again, for the images of one chip and without
    loops.
    """
    share = run.config.batch_size // run.mesh.size
    plain: Any = {"norm_group_size": None, "scan": False, "mesh": MeshConfig()}
    plain["optim"] = replace(run.config.optim, accumulate=1)
    config = replace(run.config, batch_size=share, **plain)
    mesh, weights = make_mesh(jax.devices("cpu")[:1]), run.class_weights
    one = Run(config, mesh=mesh, splits=run.splits, class_weights=weights)
    one.use(config, run.normalisation)
    traced = one.train_step.trace(one.abstract_state, abstract_batch(one))
    cost = traced.lower(lowering_platforms=(platform,)).cost_analysis()
    return cost["flops"] if cost else None


def compiler_stats(compiled: Any) -> dict[str, Any]:
    """The compiler's figures for an executable: FLOPs, bytes accessed, temporary and peak memory.
    "hbm_bytes" is counted in the program's text.
    """
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return {
        "flops": cost.get("flops"),
        "bytes_accessed": cost.get("bytes accessed"),
        "hbm_bytes": sum(hlo.hbm_bytes(compiled.as_text()).values()),
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": peak_bytes(memory),
    }
