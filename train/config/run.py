"""`RunConfig`: everything that decides a run. And `eval.*`, `checkpoint.*` and `mesh.*`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from resnet_jax.zoo import get_spec
from train.config.base import check, check_duration, check_types
from train.config.data import AugmentConfig, DataConfig
from train.config.learn import MixConfig, OptimConfig
from train.config.model import InitConfig, ModelConfig
from train.errors import ConfigError


@dataclass(frozen=True)
class EvalConfig:
    """How and how often the run is evaluated."""

    every: str = "1ep"
    """Evaluate, and save a checkpoint, this often and at the end."""
    batch_size: int = 256
    """Global batch; the last one is padded, so any number sees every example once."""
    crop_fraction: float = 0.875
    """Resize the short side to image_size / crop_fraction, then cut out the centre."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """The filter of that resize, antialiased as Pillow's are; published weights expect theirs."""

    def __post_init__(self) -> None:
        check_types(self, "eval.")
        check_duration("eval.every", self.every)
        check("eval.batch_size", self.batch_size, self.batch_size >= 1, "must be at least 1")
        value = self.crop_fraction
        check("eval.crop_fraction", value, 0 < value <= 1, "must be in (0, 1]")


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of the run."""

    every: str = ""
    """Save this often between evaluations too ("1000st"); '': only with evaluations."""
    keep: int = 2
    """Newest checkpoints kept; the best one is kept besides."""
    best: Literal["top1", "loss"] = "top1"
    """The evaluation figure that decides which one is best; of equal ones, the newest is."""

    def __post_init__(self) -> None:
        check_types(self, "checkpoint.")
        check_duration("checkpoint.every", self.every, off=True)
        check("checkpoint.keep", self.keep, self.keep >= 1, "must be at least 1")


@dataclass(frozen=True)
class MeshConfig:
    """The devices and processes of the run: nothing in here changes what it computes.

    SLURM, Open MPI, Kubernetes and TPU pods say themselves which processes there are; elsewhere
    coordinator, processes and process_id do, all three.
    """

    coordinator: str | None = None
    """host:port of process 0; None: as the launcher says, or a single process."""
    processes: int | None = None
    """How many processes there are; 1, alone: a single one, whatever a launcher says."""
    process_id: int | None = None
    """Which of them this is."""
    fsdp: int = 1
    """Devices that keep one copy of the optimiser's state and the EMA between them (ZeRO,
    arXiv:1910.02054, stage 1); 1: every device has its own."""
    fsdp_params: bool = False
    """They share the parameters too, and gather them for each step (stage 3's memory)."""

    def __post_init__(self) -> None:
        check_types(self, "mesh.")
        given = {
            name: getattr(self, name) is not None
            for name in ("coordinator", "processes", "process_id")
        }
        alone = self.processes == 1 and not given["coordinator"] and not given["process_id"]
        if any(given.values()) and not all(given.values()) and not alone:
            missing = ", ".join(f"mesh.{name}" for name, there in given.items() if not there)
            raise ConfigError(
                f"{missing} not set: coordinator, processes and process_id go together"
            )
        if self.processes is not None and self.process_id is not None:
            good = 0 <= self.process_id < self.processes
            check("mesh.process_id", self.process_id, good, f"must be in 0..{self.processes - 1}")
        check("mesh.fsdp", self.fsdp, self.fsdp >= 1, "must be at least 1")
        if self.fsdp_params:
            check("mesh.fsdp", self.fsdp, self.fsdp > 1, "mesh.fsdp_params needs at least 2")


@dataclass(frozen=True)
class RunConfig:
    """One run."""

    recipe: Annotated[str, tyro.conf.Suppress] = "custom"
    duration: str = "90ep"
    """"90ep" (epochs) or "500st" (steps); schedules given in % shrink and grow with it."""
    batch_size: int = 256
    """Global batch of a training step, over all devices and processes."""
    seed: int = 0
    """Seed of the weights, the order of examples, augmentation and dropout."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """What activations are computed in; parameters, statistics, logits and loss are float32."""
    ema_decay: float = 0.0
    """Moving average of weights and statistics, evaluated beside the raw ones; 0: none. The decay
    of step t is min(ema_decay, (1 + t) / (10 + t)), so that the average of a short run covers about
    its last tenth: 0.999 is reached after 8,990 steps, 0.9999 after 89,990."""
    norm_group_size: int | Literal["device"] | None = None
    """Examples that share BatchNorm statistics; None: the global batch; device: those of a device,
    kept as their number, so that a resume on other devices means the same."""
    scan: bool | None = None
    """Run a stage's identical blocks as a loop, so that compile time does not grow with depth;
    None: in networks of 50 blocks and more, such as resnet152 and resnet110_cifar."""
    skip_nonfinite: int = 0
    """How many steps of the run may be skipped because their loss or gradient is not finite; the
    next one stops the run, and anomaly.json names the examples of its batch."""
    log_every: str = "50st"
    """How often training metrics are written."""
    compilation_cache: str | None = None
    """Folder of compiled programs. None: $JAX_COMPILATION_CACHE_DIR or ~/.cache/resnet-jax; '': no
    cache."""
    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        check_types(self, "")
        check_duration("duration", self.duration)
        check_duration("log_every", self.log_every)
        check("batch_size", self.batch_size, self.batch_size >= 1, "must be at least 1")
        check("seed", self.seed, 0 <= self.seed < 2**32, "must be in 0..2**32-1")
        check("ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "must be in [0, 1)")
        check("skip_nonfinite", self.skip_nonfinite, self.skip_nonfinite >= 0, "must be at least 0")
        group = self.norm_group_size
        if isinstance(group, int):
            good = group >= 1 and self.batch_size % group == 0
            rule = (
                f"choose an integer that divides batch_size {self.batch_size}, device (the "
                "examples of a device) or None (the global batch)"
            )
            check("norm_group_size", group, good, rule)
        if self.mix.mixes:
            rule = "mixup and CutMix need a batch of at least 2"
            check("batch_size", self.batch_size, self.batch_size > 1, rule)
        side, size = self.mix.cutout, self.data.image_size
        rule = f"must be at most data.image_size {size}"
        check("mix.cutout", side, side <= size, rule)

    @property
    def scans(self) -> bool:
        """`scan`, decided."""
        spec = get_spec(self.model.name, **self.model.changes)
        return spec.is_deep if self.scan is None else self.scan
