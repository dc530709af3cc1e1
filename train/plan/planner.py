"""`resnet-jax plan`: compiles the training step ahead of time, without the chip.

The result is one JSON object: "computed" comes from XLA's compiler for the chip, "modelled" from
`roofline` with the published peaks of `chips`.
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
"""Training examples, evaluation examples and classes of data sets that need not be on disk."""


@dataclass(frozen=True)
class PlanArgs:
    """Options of `plan`."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    topology: str = ""
    """The hardware: v5e:16x16, v4:2x2x1, v5p:4x4x4, v6e:2x2, a100-40, a100-80, h100, h200, h200:8,
    ..."""
    images_per_core: float | None = None
    """Images that one CPU core of a host prepares in a second. None: the measured rate of photos if
    augment.crop is random_resized; otherwise it is unknown, and the input is skipped."""
    json: Path | None = None
    """Append the result to this file, as one line of JSON."""
    hlo: Path | None = None
    """Write the text of the optimised program to this file."""


def plan(args: PlanArgs) -> dict[str, Any]:
    """Compiles the step that `args` describe. This takes minutes.

    Raises:
      ConfigError: an unknown topology, data of unknown size, no compiler for the chip, or a batch
        size or `mesh.fsdp` that does not fit the number of chips. All are checked before compiling.
    """
    topology = parse_topology(args.topology)
    _check_divides(args.config.batch_size, topology)
    if args.images_per_core is not None and args.images_per_core <= 0:
        raise ConfigError(f"images_per_core {args.images_per_core}: must be positive")
    for path in (args.json, args.hlo):
        if path and not path.absolute().parent.is_dir():
            raise ConfigError(f"{path}: the folder {path.parent} does not exist")
    splits = data_facts(args.config.data)
    compiler = check_compiler(topology.chip)
    prepare_environment()
    from train.distributed.mesh import make_mesh
    from train.plan.compile import compile_step
    from train.run.norm_groups import check_statistics
    from train.run.parts import Run
    from train.run.pixels import use_stand_in

    mesh = make_mesh(devices(topology), fsdp=args.config.mesh.fsdp)
    ones = [1.0] * len(splits.train.class_names)  # class weights would be counted: same program
    counted = isinstance(args.config.loss.class_weights, str)
    weights = ones if counted and args.config.loss.class_weights != "none" else None
    run = Run(args.config, mesh=mesh, splits=splits, class_weights=weights)
    use_stand_in(run)
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
    """Images that a core prepares in a second; None: unknown."""
    photos = args.config.augment.crop == "random_resized"
    return args.images_per_core or (IMAGES_PER_CORE if photos else None)


def _packages(compiler: str) -> tuple[str, ...]:
    return (PROGRAM, "jax", "jaxlib", "flax", "optax", compiler)


def _check_divides(batch_size: int, topology: Topology) -> None:
    chips = topology.chips
    if batch_size % chips:
        near = max(batch_size // chips, 1) * chips
        raise ConfigError(
            f"batch_size {batch_size}: not divisible by the {chips} chips of {topology.name}; "
            f"choose a multiple of {chips}, such as {near}"
        )


def data_facts(config: DataConfig) -> Splits:
    """The data of a config, or synthetic data of the same size: `plan` reads no example.

    Raises:
      ConfigError: the data cannot be opened, and their size is not in `KNOWN`.
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
        return synthetic_splits(config, *KNOWN[name])


def synthetic_splits(config: DataConfig, train: int, evaluation: int, classes: int) -> Splits:
    """Synthetic splits of these sizes."""
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
    """Time, bottleneck and input rate, from the compiler's figures and the chip's peaks."""
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
    peak = chip.fp32_flops if config.precision == "fp32" else chip.bf16_flops
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
        "binds": line.bottleneck if computed["fits"] else "memory capacity",
    }
