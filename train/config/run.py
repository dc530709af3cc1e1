"""`RunConfig`, all options of a run, and the groups `eval.*`, `checkpoint.*` and `mesh.*`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from resnet_jax.zoo import get_spec
from train.config.augment import AugmentConfig
from train.config.base import check, check_duration, check_types, seconds_in
from train.config.data import DataConfig
from train.config.learn import MixConfig, OptimConfig
from train.config.loss import LossConfig
from train.config.model import InitConfig, ModelConfig
from train.errors import ConfigError


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation."""

    every: str = "1ep"
    """How often to evaluate and save a checkpoint; both are also done at the end."""
    batch_size: int = 256
    """Global batch of evaluation. The last batch is padded: every example counts exactly once."""
    crop_fraction: float = 0.875
    """The short side is resized to image_size / crop_fraction, then the centre is cropped."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of that resize, antialiased as in Pillow. Pretrained weights expect a certain one."""
    precise_bn: int = 0
    """Evaluate the best checkpoint at the end, and in `eval`, with BatchNorm statistics of the last
    N training batches of the run, in place of the running averages; 0: off. Checkpoints keep the
    running averages."""

    def __post_init__(self) -> None:
        check_types(self, "eval.")
        check_duration("eval.every", self.every)
        check("eval.batch_size", self.batch_size, self.batch_size >= 1, "must be at least 1")
        value = self.crop_fraction
        check("eval.crop_fraction", value, 0 < value <= 1, "must be in (0, 1]")
        check("eval.precise_bn", self.precise_bn, self.precise_bn >= 0, "must be at least 0")


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints."""

    every: str = ""
    """How often to save between evaluations too ("1000st"); '': only at evaluations."""
    keep: int = 2
    """Number of newest checkpoints to keep. The best one is also kept."""
    best: Literal["top1", "loss"] = "top1"
    """Evaluation metric of the best checkpoint; top1: with data.multi_label, the mean average
    precision. If several are equal, the newest is the best."""

    def __post_init__(self) -> None:
        check_types(self, "checkpoint.")
        check_duration("checkpoint.every", self.every, off=True)
        check("checkpoint.keep", self.keep, self.keep >= 1, "must be at least 1")


@dataclass(frozen=True)
class MeshConfig:
    """Devices and processes. None of these options changes the results of the run.

    Under SLURM, Open MPI, Kubernetes and on TPU pods, the processes are detected. Elsewhere, set
    coordinator, processes and process_id.
    """

    coordinator: str | None = None
    """host:port of process 0; None: detected from the launcher, or a single process."""
    processes: int | None = None
    """Number of processes. 1 without the other two options: a single process under any launcher."""
    process_id: int | None = None
    """Index of this process, from 0."""
    fsdp: int = 1
    """Number of devices that share one copy of the optimiser state and the EMA (ZeRO,
    arXiv:1910.02054, stage 1); 1: every device has its own copy."""
    fsdp_params: bool = False
    """Shard the parameters too, and gather them in each step (the memory of ZeRO stage 3)."""

    def __post_init__(self) -> None:
        check_types(self, "mesh.")
        given = {
            name: getattr(self, name) is not None
            for name in ("coordinator", "processes", "process_id")
        }
        alone = self.processes == 1 and not given["coordinator"] and not given["process_id"]
        if any(given.values()) and not all(given.values()) and not alone:
            missing = ", ".join(f"mesh.{name}" for name, is_given in given.items() if not is_given)
            raise ConfigError(
                f"{missing} not set: coordinator, processes and process_id must be set together"
            )
        if self.processes is not None and self.process_id is not None:
            good = 0 <= self.process_id < self.processes
            check("mesh.process_id", self.process_id, good, f"must be in 0..{self.processes - 1}")
        check("mesh.fsdp", self.fsdp, self.fsdp >= 1, "must be at least 1")
        if self.fsdp_params:
            check("mesh.fsdp", self.fsdp, self.fsdp > 1, "mesh.fsdp_params needs at least 2")


@dataclass(frozen=True)
class RunConfig:
    """All options of a run."""

    recipe: Annotated[str, tyro.conf.Suppress] = "custom"
    duration: str = "90ep"
    """"90ep" (epochs) or "500st" (steps). Schedules given in % scale with it. "2h" or "90min": the
    number of steps is chosen once, from the measured speed, so that the run takes that long."""
    batch_size: int = 256
    """Global batch size of training, over all devices and processes."""
    seed: int = 0
    """Seed of the initial weights, the order of examples, augmentation and dropout."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Precision of activations. Parameters, statistics, logits and loss are always float32. fp16:
    with dynamic loss scaling, for GPUs without bfloat16."""
    ema_decay: float = 0.0
    """Decay of the moving average of weights and statistics, which is evaluated in addition to the
    raw ones; 0: none. The decay of step t is min(ema_decay, (1 + t) / (10 + t)), so that in a short
    run the average covers about the last tenth: 0.999 is reached after 8,990 steps, 0.9999 after
    89,990."""
    ema_every: str = "1st"
    """How often the average is updated: "32st" or "1ep". Decays are those of one update."""
    ema_rule: Literal["ramp", "torchvision"] = "ramp"
    """ramp: the decay grows as above. torchvision: it is 1 - min(1, (1 - ema_decay) batch_size
    ema_every / epochs) after the warmup, in which weights are copied."""
    swa_start: str = ""
    """Average the weights from here on ("75%", "60ep") with equal factors, instead of ema_decay
    (SWA, Izmailov 2018, arXiv:1803.05407); '': no."""
    norm_group_size: int | Literal["device"] | None = None
    """Number of examples that share BatchNorm statistics. None: the global batch (a micro-batch of
    optim.accumulate). device: the examples of one device; the number is stored, and a resume on
    other devices uses it too."""
    scan: bool | None = None
    """Run the identical blocks of a stage as a loop, so that compile time does not grow with the
    depth. None: for networks of 50 blocks or more, such as resnet152 and resnet110_cifar."""
    skip_nonfinite: int = 0
    """How many steps of the run may be skipped because the loss or a gradient is not finite. The
    next such step stops the run, and anomaly.json lists the examples of its batch."""
    patience: int = 0
    """End the run when this many evaluations in a row have not improved `checkpoint.best`; 0: train
    to the end."""
    log_every: str = "50st"
    """How often to write training metrics."""
    compilation_cache: str | None = None
    """Folder for compiled programs. None: $JAX_COMPILATION_CACHE_DIR or ~/.cache/resnet-jax; '': no
    cache."""
    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        check_types(self, "")
        seconds = seconds_in(self.duration)
        if seconds is None:
            check_duration("duration", self.duration)
        check("duration", self.duration, seconds != 0, "must be more than 0")
        check_duration("log_every", self.log_every)
        check("batch_size", self.batch_size, self.batch_size >= 1, "must be at least 1")
        check("seed", self.seed, 0 <= self.seed < 2**32, "must be in 0..2**32-1")
        check("ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "must be in [0, 1)")
        check_duration("ema_every", self.ema_every)
        check_duration("swa_start", self.swa_start, share=True, off=True, positive=False)
        check("patience", self.patience, self.patience >= 0, "must be at least 0")
        check("skip_nonfinite", self.skip_nonfinite, self.skip_nonfinite >= 0, "must be at least 0")
        self._check_batches()
        self._check_losses()
        scale, size = self.augment.scale, self.data.image_size
        good = scale == (0, 0) or scale[0] >= size
        check("augment.scale", scale, good, f"must be at least data.image_size {size}")
        start, end = self.augment.size_start, self.data.image_size
        check("augment.size_start", start, start < end, f"must be less than data.image_size {end}")

    def _check_batches(self) -> None:
        parts, size = self.optim.accumulate, f"batch_size {self.batch_size}"
        check("optim.accumulate", parts, self.batch_size % parts == 0, f"does not divide {size}")
        if parts > 1:
            size += f" / optim.accumulate {parts}"
        group = self.norm_group_size
        if isinstance(group, int):
            good = group >= 1 and self.micro_batch_size % group == 0
            rule = (
                f"choose an integer that divides {size}, device (the examples of a device) or None "
                "(the global batch)"
            )
            check("norm_group_size", group, good, rule)
        if self.mix.mixes and self.micro_batch_size < 2:
            raise ConfigError(f"{size}: mixup and CutMix need a batch of at least 2")
        repeats, rule = self.augment.repeats, f"must be at most batch_size {self.batch_size}"
        check("augment.repeats", repeats, repeats <= self.batch_size, rule)

    def _check_losses(self) -> None:
        if self.data.multi_label:
            rule = "data.multi_label needs bce or focal"
            check("loss.name", self.loss.name, self.loss.name != "cross_entropy", rule)
        weights, balance = self.loss.class_weights, self.data.balance
        if "inverse" in (weights, balance) and isinstance(weights, str):
            good = "none" in (weights, balance)
            rule = f"rare classes are weighted already by data.balance {balance}; choose one"
            check("loss.class_weights", weights, good, rule)

    @property
    def micro_batch_size(self) -> int:
        """The examples that go through the network at once, over all devices."""
        return self.batch_size // self.optim.accumulate

    @property
    def averages(self) -> bool:
        """Whether the run averages its weights, and evaluates the average too."""
        return self.ema_decay > 0 or self.swa_start != ""

    @property
    def scans(self) -> bool:
        """Whether blocks run as a loop: `scan`, or its default for this network."""
        spec = get_spec(self.model.name, **self.model.changes)
        return spec.is_deep if self.scan is None else self.scan
