"""`resnet-jax plan`: the training step compiled for hardware that is not there.

What it finds is one JSON object: "computed" comes from XLA's own compiler for the chip, "modelled"
from `roofline` on the published peaks of `chips`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from train.config import ConfigError, DataConfig, RunConfig
from train.data.sources import Splits, SyntheticSource, open_splits
from train.plan.roofline import IMAGES_PER_CORE, Roofline, cores_for
from train.plan.topology import (
    Topology,
    check_compiler,
    devices,
    parse_topology,
    prepare_environment,
)
from train.run.memory import Footprint, suggestions
from train.run.provenance import PROGRAM, package_version

KNOWN = {
    "imagenet2012": (1_281_167, 50_000, 1000),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
}
"""Training examples, evaluation examples and classes of data sets that need not be here."""


@dataclass(frozen=True)
class PlanArgs:
    """Options of `plan`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    topology: str = ""
    """v5e:16x16, v4:2x2x1, v5p:4x4x4, v6e:2x2, a100-40, a100-80, h100, h200, h200:8, ..."""
    images_per_core: float | None = None
    """Images that one CPU core of a host prepares in a second; None: as measured where photos are
    cropped (augment.crop random_resized), else unknown, and the input is left out."""
    json: Path | None = None
    """Append all figures to this file, as one line of JSON."""
    hlo: Path | None = None
    """Write the optimised program's text to this file."""


def plan(args: PlanArgs) -> dict[str, Any]:
    """Compiles the step that `args` describe; this takes minutes.

    Raises:
      ConfigError: no such topology, data of unknown size, no compiler for the chip here, or a batch
        or `mesh.fsdp` that does not divide the chips: all before anything is compiled.
    """
    topology = parse_topology(args.topology)
    _check_divides(args.config.batch_size, topology)
    if args.images_per_core is not None and args.images_per_core <= 0:
        raise ConfigError(f"images_per_core {args.images_per_core}: must be positive")
    for path in (args.json, args.hlo):
        if path and not path.absolute().parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}")
    splits = data_facts(args.config.data)
    compiler = check_compiler(topology.chip)
    prepare_environment()
    from train.distributed.mesh import make_mesh
    from train.plan.compile import compile_step
    from train.run.norm_groups import check_statistics
    from train.run.parts import Run

    mesh = make_mesh(devices(topology), fsdp=args.config.mesh.fsdp)
    run = Run(args.config, mesh=mesh, splits=splits)
    check_statistics(run)
    computed, program = compile_step(run, topology.chip.platform, topology.chip.hbm_usable)
    if args.hlo and program:
        args.hlo.write_text(program, encoding="utf-8")
    found = {
        **_what(args.config, topology),
        "versions": {name: package_version(name) for name in _packages(compiler)},
        "computed": computed,
        "modelled": model(run, topology, computed, images_per_core(args)),
    }
    if args.json:
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
    return found


def images_per_core(args: PlanArgs) -> float | None:
    """What a core prepares in a second, as far as it is known."""
    photos = args.config.augment.crop == "random_resized"
    return args.images_per_core or (IMAGES_PER_CORE if photos else None)


def _packages(compiler: str) -> tuple[str, ...]:
    return (PROGRAM, "jax", "jaxlib", "flax", "optax", compiler)


def _check_divides(batch_size: int, topology: Topology) -> None:
    chips = topology.chips
    if batch_size % chips:
        near = max(batch_size // chips, 1) * chips
        raise ConfigError(
            f"batch_size {batch_size}: does not divide over the {chips} chips of "
            f"{topology.name}; choose a multiple of {chips}, such as {near}"
        )


def data_facts(config: DataConfig) -> Splits:
    """The data that a config names, or a stand-in of the same size: `plan` reads no example.

    Raises:
      ConfigError: the data cannot be opened, and `KNOWN` does not have their size.
    """
    try:
        return open_splits(config)
    except ConfigError as error:
        name = config.name.partition(":")[0]
        if name not in KNOWN or "[" in config.train_split:
            raise ConfigError(
                f"{error}. To plan without the data, give their size: --data.name synthetic "
                "--data.classes N --data.examples N"
            ) from None
        return stand_in(config, *KNOWN[name])


def stand_in(config: DataConfig, train: int, evaluation: int, classes: int) -> Splits:
    """Synthetic splits of these sizes, for what reads no example."""
    names = [str(i) for i in range(classes)]
    return Splits(
        SyntheticSource(train, config.image_size, names, "train"),
        SyntheticSource(evaluation, config.image_size, names, "eval"),
    )


def _what(config: RunConfig, topology: Topology) -> dict[str, Any]:
    return {
        "recipe": config.recipe,
        "network": config.model.name,
        "topology": topology.name,
        "chip": topology.chip.name,
        "platform": topology.chip.platform,
        "chips": topology.chips,
        "hosts": topology.hosts,
        "batch_size": config.batch_size,
        "batch_per_chip": config.batch_size // topology.chips,
        "precision": config.precision,
        "fsdp": config.mesh.fsdp,
    }


def model(
    run: Any, topology: Topology, computed: dict[str, Any], core_rate: float | None
) -> dict[str, Any]:
    """What the compiler's figures imply on the chip's published peaks."""
    config, chip = run.config, topology.chip
    memory = computed["memory"]
    found: dict[str, Any] = {}
    if not computed["fits"] and memory["peak"]:
        shared = memory["optimiser"] + memory["ema"]
        fixed = 2 * memory["parameters"]
        rest = max(memory["peak"] - fixed - shared, 0)
        now = Footprint(memory["parameters"], memory["parameters"], shared, rest)
        found["suggestions"] = suggestions(
            now,
            memory["usable"],
            batch_per_chip=config.batch_size // topology.chips,
            chips=topology.chips,
            fsdp=config.mesh.fsdp,
        )
    if "flops" not in computed:
        return {**found, "binds": "memory capacity"}
    sent = sum(each["sent"] for each in computed["collectives"].values())
    peak = chip.bf16_flops if config.precision == "bf16" else chip.fp32_flops
    per_host = config.batch_size / topology.hosts
    line = Roofline(
        compute=(computed["flops"] or 0) / peak,
        hbm=computed["hbm_bytes"] / chip.hbm_bandwidth,
        network=sent / topology.wire if sent else 0.0,
        input=per_host / (core_rate * chip.host_cpus) if core_rate else 0.0,
    )
    rate = config.batch_size / line.step
    return {
        **found,
        "seconds": {**asdict(line), "step": line.step},
        "peak_flops": peak,
        "hbm_bandwidth": chip.hbm_bandwidth,
        "wire_bandwidth": topology.wire,
        "sent_bytes": sent,
        "images_per_second": rate,
        "images_per_second_per_chip": rate / topology.chips,
        "epochs_per_hour": rate * 3600 / len(run.splits.train),
        "examples": len(run.splits.train),
        "steps": run.total_steps,
        "hours": run.total_steps * line.step / 3600,
        "images_per_second_per_host": rate / topology.hosts,
        "images_per_core": core_rate,
        "cores_per_host": cores_for(rate / topology.hosts, core_rate) if core_rate else None,
        "host_cpus": chip.host_cpus,
        "binds": line.binds if computed["fits"] else "memory capacity",
    }
