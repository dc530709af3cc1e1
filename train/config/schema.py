"""`RunConfig`: everything that decides a run, one home per option, checked when it is built.

Nothing here imports JAX, so a mistake is reported at once.
"""

import ast
import dataclasses
import inspect
import itertools
import math
import re
import textwrap
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.spec import ResNetSpec
from resnet_jax.validate import check_fields
from resnet_jax.zoo import get_spec


class ConfigError(ValueError):
    """Bad input or configuration: the command line prints the message and exits with 2."""


class RunError(RuntimeError):
    """A run that could not go on: the command line prints the message and exits with 1."""


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ep|st|%)")


def to_steps(duration: str, *, examples: int, batch_size: int, total: int | None = None) -> int:
    """Steps in a duration: "90ep" (epochs), "500st" (steps) or "5%" (of `total` steps).

    An epoch is `examples / batch_size` steps; the result is rounded up.

    Raises:
      ConfigError: not a duration, or a share of a total that is not known.

    >>> to_steps("2ep", examples=1000, batch_size=128)
    16
    >>> to_steps("5%", examples=1000, batch_size=128, total=60)
    3
    """
    match = _DURATION.fullmatch(duration)
    if not match or (match[2] == "%" and total is None):
        share = " or '{}%' of the run" if total is not None else ""
        raise ConfigError(_no_duration(duration, share))
    value, unit = float(match[1]), match[2]
    steps = {"ep": value * examples / batch_size, "st": value, "%": value / 100 * (total or 0)}
    # 1e-9: 0.1 * 30 must not round up to 4
    return int(-(-(steps[unit] - 1e-9) // 1))


def _no_duration(duration: str, more: str = "") -> str:
    """The message; a bare number comes back with the units that it lacks. `more`: others, "{}%"."""
    numbers = ("90", "500", "5")
    if re.fullmatch(r"\d{1,9}(\.\d+)?", duration):
        numbers = (duration, duration, duration)
    return f"{duration!r} is not a duration: write " + f"'{{}}ep', '{{}}st'{more}".format(*numbers)


def _check_duration(
    where: str, duration: str, *, share: bool = False, off: bool = False, positive: bool = True
) -> None:
    if off and duration == "":
        return
    match = _DURATION.fullmatch(duration)
    if not match or (match[2] == "%" and not share):
        more = (", '{}%'" if share else "") + (" or '' (off)" if off else "")
        raise ConfigError(f"{where} {_no_duration(duration, more)}")
    if positive and float(match[1]) == 0:
        raise ConfigError(
            f"{where} {duration!r}: must be more than 0" + (", or '' (off)" if off else "")
        )


def _is_finite(*values: float) -> bool:
    return all(map(math.isfinite, values))


def _check(where: str, value: Any, good: bool, rule: str) -> None:
    if not good:
        raise ConfigError(f"{where} {value!r}: {rule}")


def _check_types(config: Any, where: str) -> None:
    try:
        check_fields(config, where)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field, which Python itself throws away."""
    docs = {}
    definition: Any = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    for pair in itertools.pairwise(definition.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                docs[name] = str(text)
    return docs


_SPEC_DOCS = field_docs(ResNetSpec)

# The fields of `ModelConfig` are the name and those of `ResNetSpec`, each None until it is set, so
# that an architecture option has its home, and its default, in one place.
_SpecChanges: Any = dataclasses.make_dataclass(
    "_SpecChanges",
    [
        (name, Annotated[kind | None, tyro.conf.arg(help=_SPEC_DOCS[name])], None)
        for name, kind in typing.get_type_hints(ResNetSpec).items()
    ],
    frozen=True,
    kw_only=True,
)


@dataclass(frozen=True)
class ModelConfig(_SpecChanges):
    """The network: a name of the zoo, and fields of its ResNetSpec to change."""

    name: str = "resnet50"
    """A name from `resnet-jax models`."""

    def __post_init__(self) -> None:
        _check_types(self, "model.")
        try:
            get_spec(self.name, **self.changes)
        except ValueError as error:
            drop = "; what a recipe set, 'None' drops" if "unknown option" in str(error) else ""
            raise ConfigError(f"model: {error}{drop}") from None

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of the spec that differ from what the name says."""
        fields = [f.name for f in dataclasses.fields(ResNetSpec)]
        values = {name: getattr(self, name) for name in fields}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how they are read."""

    name: str = "digits"
    """digits, folder, npz, synthetic, or a TFDS data set ("cifar10", "imagenet2012:5.1.0")."""
    dir: str | None = None
    """The folder (folder), the file (npz), or the TFDS data directory (default: TFDS's own)."""
    train_split: str = "train"
    """Split to train on; TFDS slices such as "train[:90%]" too. A folder may have another spelling
    of it ("Train", "training")."""
    eval_split: str = "test"
    """Split to evaluate on. A folder may have another spelling of it ("valid", "validation")."""
    image_key: str | None = None
    """The feature of a TFDS data set that is the image. None: the one that the data set declares
    (supervised_keys), else the only one, else "image". A run keeps the one that it began with."""
    label_key: str | None = None
    """The feature that is the class label, found likewise."""
    remap_labels: bool = False
    """Number the different labels of an npz file 0, 1, 2, ... in ascending order, such as ids."""
    eval_fraction: float = 0.2
    """Share held out where the data has one split only (digits; a folder of class folders)."""
    split_seed: int = 0
    """Chooses the held-out share; apart from `seed`, so that runs share a test set."""
    held_out: Literal["by_name", "by_place"] = "by_name"
    """How the held-out share is chosen: by a hash of each file's own name (digits: the exact share
    of each class), or, as runs before this option did, by its place in the list of files. A run
    keeps the rule that it began with."""
    order: Literal[1, 2] = 2
    """Version of the shuffle; 1 is that of runs before this option. A run keeps its own."""
    listing: Literal[1, 2] = 2
    """Version of the rule which files of a folder are images; 1 is that of runs before this option:
    .jpg, .jpeg, .png, .webp and .bmp, hidden ones too. A run keeps its own."""
    image_size: int = 224
    """Side of the square images that the network sees, in pixels."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel, pixels scaled to 0..1."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel, likewise."""
    on_bad_image: Literal["error", "skip"] = "error"
    """A file that is no image: stop and name it, or leave it out, count and report it."""
    max_pixels: int = 100_000_000
    """Images of more pixels are refused (decompression bombs)."""
    max_image_bytes: int = 768 * 2**20
    """Memory that decoding and resizing one image may take, in bytes; an image that would take more
    is refused before it is decoded. Each reading thread may take that much."""
    threads: int = 4
    """Reading and decoding threads of a process; 0: one, which reads a batch ahead."""
    workers: int = 0
    """Reading and decoding processes, each with `threads` threads; 0: this process reads."""
    prefetch: int = 2
    """Batches read ahead."""
    decoder: Literal["cpu", "dali"] = "cpu"
    """Who decodes, crops and resizes training JPEGs: this process's cores, or NVIDIA DALI on its
    GPUs, from the same crops, for hosts with too few cores (pip install -e '.[dali]')."""
    retries: int = 5
    """How often a read is tried again that failed for a passing reason (a network, a server), after
    0.1, 0.2, 0.4 ... seconds."""
    resident: Literal["auto", "on", "off"] = "auto"
    """Whether the training images live on the devices, where they are shuffled, cropped and
    mirrored: the same batches. auto: on a GPU or TPU, if they take at most 2 GiB, the run is an
    epoch or more in one process, and `augment` is pad or none and flip."""
    stall_seconds: float = 60.0
    """A batch that takes longer is reported, and again every so many seconds."""
    examples: int = 1280
    """Size of each synthetic split."""
    classes: int = 1000
    """Classes of synthetic data."""

    def __post_init__(self) -> None:
        _check_types(self, "data.")
        _check("data.image_size", self.image_size, self.image_size >= 1, "must be at least 1")
        _check("data.threads", self.threads, self.threads >= 0, "must be at least 0")
        _check("data.workers", self.workers, self.workers >= 0, "must be at least 0")
        _check("data.prefetch", self.prefetch, self.prefetch >= 1, "must be at least 1")
        _check("data.retries", self.retries, self.retries >= 0, "must be at least 0")
        _check("data.stall_seconds", self.stall_seconds, self.stall_seconds > 0, "must be positive")
        _check("data.max_pixels", self.max_pixels, self.max_pixels >= 1, "must be at least 1")
        large = self.max_image_bytes
        _check("data.max_image_bytes", large, large >= 1, "must be at least 1")
        _check("data.examples", self.examples, self.examples >= 1, "must be at least 1")
        _check("data.classes", self.classes, self.classes >= 1, "must be at least 1")
        fraction = self.eval_fraction
        _check("data.eval_fraction", fraction, 0 < fraction < 1, "must be between 0 and 1")
        for where, values in (("data.mean", self.mean), ("data.std", self.std)):
            _check(where, values, len(values) in (1, 3), "needs one value, or one for each of RGB")
            _check(where, values, _is_finite(*values), "must be finite")
        _check("data.std", self.std, min(self.std) > 0, "must be positive")


@dataclass(frozen=True)
class InitConfig:
    """Where weights come from.

    What is written beside them about preprocessing (the .json of `convert`, timm's config.json)
    becomes data.mean, data.std, eval.crop_fraction and eval.interpolation, unless those are set.
    Nothing is written beside torchvision's, which expect the default data.mean and data.std.
    """

    weights: str | None = None
    """A file that resnet_jax.load_weights reads, or NAME.TAG of timm's published weights, such as
    resnet50.a1_in1k; None: random."""
    head: Literal["keep", "reset"] = "reset"
    """reset: a new classifier for the data's classes; keep: the file's, which has as many."""

    def __post_init__(self) -> None:
        _check_types(self, "init.")
        _check("init.weights", self.weights, self.weights != "", "needs a file, or NAME.TAG")


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to a training image on the host."""

    crop: Literal["random_resized", "pad", "none"] = "random_resized"
    """Random area and aspect (Szegedy 2015), pad and crop (He 2016a, 4.2), or as evaluated."""
    area: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a random_resized crop covers."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Its aspect ratio, width / height."""
    pad: int = 4
    """Pixels added on every side before a `pad` crop."""
    flip: bool = True
    """Mirror left-right with probability 1/2."""

    def __post_init__(self) -> None:
        _check_types(self, "augment.")
        low, high = self.area
        _check("augment.area", self.area, 0 < low <= high <= 1, "needs 0 < low <= high <= 1")
        low, high = self.aspect
        _check("augment.aspect", self.aspect, 0 < low <= high, "needs 0 < low <= high")
        _check("augment.pad", self.pad, self.pad >= 0, "must be at least 0")


@dataclass(frozen=True)
class MixConfig:
    """What is done to targets and images on the device."""

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes (Szegedy 2016, section 7)."""

    def __post_init__(self) -> None:
        _check_types(self, "mix.")
        value = self.label_smoothing
        _check("mix.label_smoothing", value, 0 <= value < 1, "must be in [0, 1)")


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning rate."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or Adam."""
    lr: float = 0.1
    """Peak learning rate for a batch of `lr_batch` examples."""
    lr_batch: int = 256
    """The rate used is lr * batch_size / lr_batch (linear scaling, Goyal 2017); 0: lr as it is."""
    momentum: float = 0.9
    """SGD's momentum; Adam's beta 1."""
    nesterov: bool = False
    """Nesterov's momentum (Adam: NAdam)."""
    beta2: float = 0.999
    """Adam's second-moment decay."""
    epsilon: float = 1e-8
    """Adam's, added to the root of the second moment."""
    weight_decay: float = 1e-4
    """Weight decay."""
    decay: Literal["l2", "decoupled"] = "l2"
    """Added to the gradient, or applied beside the update, scaled by the learning rate (AdamW)."""
    decay_mask: Literal["kernels", "all"] = "kernels"
    """What decays: kernels only (no BatchNorm, no bias), or everything."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0: no clipping."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Shape of the learning rate behind the warmup."""
    warmup: str = "0st"
    """Linear warmup from 0: "5ep", "400st" or "5%" of the run."""
    milestones: tuple[str, ...] = ("50%", "75%")
    """Where the step schedule multiplies the rate by `gamma`: as warmup, counted from the start."""
    gamma: float = 0.1
    """The step schedule's factor."""

    def __post_init__(self) -> None:
        _check_types(self, "optim.")
        _check("optim.lr", self.lr, self.lr > 0, "must be positive")
        _check("optim.lr", self.lr, _is_finite(self.lr), "must be finite")
        _check("optim.lr_batch", self.lr_batch, self.lr_batch >= 0, "must be at least 0")
        for name in ("momentum", "beta2"):
            value = getattr(self, name)
            _check(f"optim.{name}", value, 0 <= value < 1, "must be in [0, 1)")
        for name in ("weight_decay", "clip", "epsilon", "gamma"):
            value = getattr(self, name)
            _check(f"optim.{name}", value, value >= 0, "must be at least 0")
            _check(f"optim.{name}", value, _is_finite(value), "must be finite")
        _check_duration("optim.warmup", self.warmup, share=True, positive=False)
        is_whole = self.warmup.endswith("%") and float(self.warmup[:-1]) >= 100
        _check("optim.warmup", self.warmup, not is_whole, "must be shorter than the run")
        for milestone in self.milestones:
            _check_duration("optim.milestones", milestone, share=True, positive=False)


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
        _check_types(self, "eval.")
        _check_duration("eval.every", self.every)
        _check("eval.batch_size", self.batch_size, self.batch_size >= 1, "must be at least 1")
        value = self.crop_fraction
        _check("eval.crop_fraction", value, 0 < value <= 1, "must be in (0, 1]")


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
        _check_types(self, "checkpoint.")
        _check_duration("checkpoint.every", self.every, off=True)
        _check("checkpoint.keep", self.keep, self.keep >= 1, "must be at least 1")


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
        _check_types(self, "mesh.")
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
            _check("mesh.process_id", self.process_id, good, f"must be in 0..{self.processes - 1}")
        _check("mesh.fsdp", self.fsdp, self.fsdp >= 1, "must be at least 1")
        if self.fsdp_params:
            _check("mesh.fsdp", self.fsdp, self.fsdp > 1, "mesh.fsdp_params needs at least 2")


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
        _check_types(self, "")
        _check_duration("duration", self.duration)
        _check_duration("log_every", self.log_every)
        _check("batch_size", self.batch_size, self.batch_size >= 1, "must be at least 1")
        _check("seed", self.seed, 0 <= self.seed < 2**32, "must be in 0..2**32-1")
        _check("ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "must be in [0, 1)")
        _check(
            "skip_nonfinite", self.skip_nonfinite, self.skip_nonfinite >= 0, "must be at least 0"
        )
        group = self.norm_group_size
        if isinstance(group, int):
            good = group >= 1 and self.batch_size % group == 0
            rule = (
                f"choose an integer that divides batch_size {self.batch_size}, device (the "
                "examples of a device) or None (the global batch)"
            )
            _check("norm_group_size", group, good, rule)

    @property
    def scans(self) -> bool:
        """`scan`, decided."""
        spec = get_spec(self.model.name, **self.model.changes)
        return spec.is_deep if self.scan is None else self.scan
