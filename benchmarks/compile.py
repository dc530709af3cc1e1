"""Time to trace and compile a training step, with an empty and with a warm cache.

    resnet-jax bench compile [CASE ...] [--n 3] [--out benchmarks/results/compile.jsonl]

A case is NAME[,scan|plain[,BATCH,SIZE]], such as resnet152,plain: that network with the recipe for
its image size (imagenet-resnet50, cifar10-resnet110), in float32, on synthetic data. Each
measurement runs in a separate process. All cases are measured in each of n rounds: first with an
empty compilation cache, then with the cache of the first run. One JSON line per case: device,
versions, n, seconds (median, min, max), and the time of trace and compilation divided by that of
the first case in the same round, also in CPU time. `total` is measured by the parent process, from
the start of the child to the end of its first step.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.record import Row, at_least_one, command, emit, environment, spread
from resnet_jax.zoo import get_spec
from train.runtime import set_xla_flags

Samples = dict[str, list[dict[str, float]]]
CASES = ("resnet50", "resnet152", "resnet152,plain", "resnet1202_cifar")


class Case(NamedTuple):
    """A network and its training."""

    name: str
    scan: bool | None
    batch: int
    size: int


def parse(text: str) -> Case:
    """Parses a case.

    >>> parse("resnet152,plain")
    Case(name='resnet152', scan=False, batch=4, size=224)
    """
    name, *rest = text.split(",")
    scan = {"scan": True, "plain": False}.get(rest[0]) if rest else None
    if len(rest) not in (0, 1, 3) or (rest and scan is None) or not all(map(str.isdigit, rest[1:])):
        raise ValueError(f"case {text!r}: write NAME[,scan|plain[,BATCH,PIXELS]]")
    if rest[1:]:
        return Case(name, scan, int(rest[1]), int(rest[2]))
    return Case(name, scan, *((8, 32) if name.endswith("cifar") else (4, 224)))


def make_run(case: Case) -> Any:
    """The `train.run.parts.Run` of a case, on one device."""
    import jax

    from train.config import DataConfig, ModelConfig
    from train.distributed.mesh import make_mesh
    from train.recipes import get_recipe
    from train.run.parts import Run

    cifar = case.size == 32
    recipe = get_recipe("cifar10-resnet110" if cifar else "imagenet-resnet50")
    data = DataConfig(name="synthetic", image_size=case.size, classes=10 if cifar else 1000)
    config = replace(
        recipe,
        model=ModelConfig(name=case.name),
        data=data,
        batch_size=case.batch,
        precision="fp32",
        scan=case.scan,
    )
    return Run(config, mesh=make_mesh(jax.devices()[:1]))


def first_step(case: Case, cache: str | None) -> dict[str, float]:
    """Measures each part of a start in this process, in seconds.

    Args:
      case: the workload.
      cache: see `--compilation_cache`.

    Returns:
      `imports`, `state` (initialisation), `batch`, `trace` (with lowering), `compile` (or reading
      from the cache), `first_step`, `second_step`; and CPU time, which other processes affect less:
      `trace_cpu`, `compile_cpu`.
    """
    seconds: dict[str, float] = {}
    since, cpu = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        nonlocal since, cpu
        now, used = time.perf_counter(), time.process_time()
        if name in ("trace", "compile"):
            seconds[f"{name}_cpu"] = used - cpu
        seconds[name], since, cpu = now - since, now, used

    import jax
    import numpy as np

    from train.distributed.mesh import put_batch
    from train.runtime import use_compilation_cache

    use_compilation_cache(cache)
    run = make_run(case)
    lap("imports")
    state = jax.block_until_ready(run.new_state())
    lap("state")
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (case.batch, case.size, case.size, 3), np.uint8),
        "label": rng.integers(0, 10, case.batch, np.int32),
        "mask": np.ones(case.batch, np.float32),
    }
    on_device = put_batch(batch, run.mesh)
    lap("batch")
    lowered = run.train_step.lower(state, on_device)
    lap("trace")
    step = lowered.compile()
    lap("compile")
    for name in ("first_step", "second_step"):
        state, sums = jax.block_until_ready(step(state, on_device))
        lap(name)
        assert np.isfinite(sums["loss"])
    return seconds


def start(case: str, cache: str) -> dict[str, float]:
    """`first_step` in a separate process, and `total`."""
    command = [sys.executable, "-m", "benchmarks.compile", case, "--worker", cache]
    since = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    total = time.perf_counter() - since
    seconds = json.loads(done.stdout.splitlines()[-1])
    return {**seconds, "total": total - seconds["second_step"]}


def measure(cases: list[str], n: int) -> list[Row]:
    """A row for each case."""
    found: dict[str, Samples] = {case: {"cold": [], "warm": []} for case in cases}
    for _ in range(n):
        for case in cases:
            with tempfile.TemporaryDirectory() as cache:
                for kind in ("cold", "warm"):
                    found[case][kind].append(start(case, cache))
                    print(case, kind, found[case][kind][-1], file=sys.stderr)
    return [_row(case, kinds, cases[0], found[cases[0]]) for case, kinds in found.items()]


def _row(case: str, kinds: Samples, first: str, of_first: Samples) -> Row:
    def ratio(kind: str) -> dict[str, float]:
        parts = (f"trace{kind}", f"compile{kind}")
        pairs = zip(kinds["cold"], of_first["cold"], strict=True)
        return spread([sum(a[x] for x in parts) / sum(b[x] for x in parts) for a, b in pairs])

    return {
        "benchmark": "compile",
        **parse(case)._asdict(),
        "case": case,
        "precision": "fp32",
        **{f"{kind}_seconds": _parts(runs) for kind, runs in kinds.items()},
        f"over_{first}": ratio(""),
        f"over_{first}_cpu": ratio("_cpu"),
    }


def _parts(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {part: spread([run[part] for run in runs]) for part in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", default=list(CASES))
    parser.add_argument("--n", type=at_least_one, default=3, help="rounds")
    parser.add_argument("--out", type=Path, help="append the results to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        set_xla_flags()  # as `resnet-jax train` does
        print(json.dumps(first_step(parse(args.case[0]), args.worker)), flush=True)
        return
    for case in args.case:
        try:
            get_spec(parse(case).name)
        except ValueError as error:
            parser.error(str(error))
    machine = {**environment(), "command": command("compile", sys.argv[1:])}
    for row in measure(args.case, args.n):
        emit({**machine, **row}, args.out)


if __name__ == "__main__":
    main()
