"""The training step compiled for a TPU that is not there: bytes, memory, FLOPs, collectives.

    pip install libtpu
    python -m benchmarks.compiled [--model resnet50] [--batch 128] [--topology v5e:2x2]
        [--devices 1] [--hlo step.txt] [--out benchmarks/results/compiled.jsonl]

What is printed comes from XLA's own compiler for the chip (about three minutes for a ResNet-50); no
step is run, so there is no time in it. `--batch` is of one device. `--hlo` keeps the optimised
program's text.
"""

import argparse
import importlib.metadata
import json
import os
import re
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"


def abstract_step(model_name: str, batch: int, size: int, mesh: Any) -> tuple[Any, Any, Any]:
    """(train step, state, batch) of shapes only: bf16, SGD with momentum, cross entropy."""
    import jax
    import jax.numpy as jnp
    import optax

    from resnet_jax import create_model
    from train.config import MixConfig
    from train.mesh import by_example, replicated
    from train.prepare import make_prepare
    from train.state import TrainState
    from train.step import make_train_step
    from train.tasks import Classify

    model = create_model(model_name, 1000, dtype=jnp.bfloat16)
    tx = optax.sgd(0.1, momentum=0.9)
    prepare = make_prepare(1000, mean=(0.5,), std=(0.25,), mix=MixConfig())
    step = make_train_step(model, Classify(), tx, prepare, mesh, seed=0, ema_decay=0.0)

    def fresh(key: Any) -> TrainState:
        variables = model.init(key, jnp.zeros((1, size, size, 3)), train=False)
        params, stats = variables["params"], variables["batch_stats"]
        return TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), {})

    def on(sharding: Any, tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    state = on(replicated(mesh), jax.eval_shape(fresh, jax.random.key(0)))
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    labels, mask = (jax.ShapeDtypeStruct((batch,), kind) for kind in (jnp.int32, jnp.float32))
    return step, state, on(by_example(mesh), {"image": images, "label": labels, "mask": mask})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=128, help="images on each device")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--devices", type=int, default=1, help="of the topology, the first ones")
    parser.add_argument("--hlo", type=Path, help="write the optimised program here")
    parser.add_argument("--out", type=Path, help="append the result to this file")
    args = parser.parse_args()

    from jax.experimental import topologies

    from train.mesh import make_mesh

    topology = topologies.get_topology_desc(platform="tpu", topology_name=args.topology)
    mesh = make_mesh(topology.devices[: args.devices])
    whole = args.batch * args.devices
    step, state, batch = abstract_step(args.model, whole, args.size, mesh)
    since = time.perf_counter()
    compiled = step.trace(state, batch).lower(lowering_platforms=("tpu",)).compile()
    text, cost, memory = compiled.as_text(), compiled.cost_analysis(), compiled.memory_analysis()
    packages = ("jax", "flax", "libtpu", "resnet-jax")
    found = {
        "benchmark": "compiled",
        "topology": args.topology,
        "devices": args.devices,
        "model": args.model,
        "batch_a_device": args.batch,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "compile_seconds": round(time.perf_counter() - since),
        "megabytes_accessed_an_image": round(cost["bytes accessed"] / args.batch / 1e6, 1),
        "gigaflops_an_image": round(cost["flops"] / args.batch / 1e9, 1),
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
        "all_reduces": len(re.findall(r" all-reduce(?:-start)?\(", text)),
    }
    line = json.dumps(found)
    print(line)
    if args.hlo:
        args.hlo.write_text(text)
    if args.out:
        with args.out.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
