"""The condition under which each option of `RunConfig` has an effect.

Add a new option to `ALWAYS` or to `CONDITIONS`. Nothing here imports JAX.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from resnet_jax.zoo import get_spec
from train.config import RunConfig

ALWAYS = (
    *("duration", "batch_size", "seed", "precision", "swa_start", "scan", "skip_nonfinite"),
    *("patience", "log_every", "compilation_cache"),
    *("model.name", "model.depths", "model.stage_blocks", "model.stage_widths", "model.width"),
    *("model.groups", "model.group_width", "model.reduce_first", "model.stem", "model.stem_width"),
    *("model.stem_pool", "model.stride_at", "model.shortcut", "model.shortcut_kernel"),
    *("model.avg_down", "model.anti_alias", "model.preact", "model.activation"),
    *("model.attention", "model.norm", "model.norm_epsilon", "model.weight_standardization"),
    *("model.output_stride", "model.zero_gamma", "model.kernel_init", "model.drop_path"),
    *("model.zero_conv", "model.norm_bias", "model.head_std", "model.head_bias"),
    *("model.drop_block", "model.block_dropout", "model.dropout", "model.drop_connect"),
    *("init.weights", "data.name", "data.order", "data.balance", "data.image_size", "data.whiten"),
    *("data.threads", "data.workers", "data.resident", "data.stall_seconds"),
    *("augment.scale", "augment.interpolation", "augment.flip", "augment.vertical_flip"),
    *("augment.rotate", "augment.translate", "augment.shear", "augment.zoom", "augment.policy"),
    *("augment.jitter", "augment.grey", "augment.blur", "augment.lighting", "augment.repeats"),
    *("augment.preset", "augment.size_start"),
    *("mix.mixup", "mix.cutmix", "mix.cutout", "mix.erasing"),
    *("loss.name", "loss.class_weights", "loss.l1", "loss.l2"),
    *("optim.name", "optim.lr", "optim.lr_batch", "optim.momentum"),
    *("optim.weight_decay", "optim.clip", "optim.clip_value", "optim.accumulate"),
    *("optim.sam", "optim.schedule", "optim.warmup"),
    *("eval.every", "eval.batch_size", "eval.crop_fraction", "eval.interpolation"),
    *("checkpoint.every", "checkpoint.keep", "checkpoint.best"),
    *("mesh.coordinator", "mesh.processes", "mesh.process_id", "mesh.fsdp", "mesh.fsdp_params"),
)
"""Options that always have an effect, or whose own checks cover the other cases."""


class Condition(NamedTuple):
    """Options that have an effect only under a condition."""

    options: tuple[str, ...]
    decides: str
    """The option on which the condition depends."""
    holds: Callable[[RunConfig], bool]
    """Whether the options have an effect in a config."""
    belongs: str
    """For which configs the condition holds, in words."""
    is_mistake: bool = False
    """Whether setting them without effect is an error; otherwise it is a warning."""


_BUILT_IN = ("digits", "npz", "synthetic")
_FILES = "folders, CSV files and TFDS data sets"


def _is_data(*names: str) -> Callable[[RunConfig], bool]:
    return lambda config: config.data.name in names


def _is_set(group: str, name: str) -> Callable[[RunConfig], bool]:
    return lambda config: bool(getattr(getattr(config, group), name))


def _is_encoded(config: RunConfig) -> bool:
    """Whether images are read from encoded files."""
    return config.data.name not in _BUILT_IN


def _is_tfds(config: RunConfig) -> bool:
    return config.data.name not in (*_BUILT_IN, "csv", "folder")


def spec_of(config: RunConfig) -> Any:
    """The `ResNetSpec` or `LeNetSpec` of a config's network."""
    return get_spec(config.model.name, **config.model.changes)


def _tests(config: RunConfig) -> bool:
    return bool(config.data.test_split)


def _reads_ahead(config: RunConfig) -> bool:
    return config.data.threads > 0 or config.data.workers > 0


CONDITIONS = (
    Condition(
        ("data.dir",),
        "data.name",
        lambda config: config.data.name not in ("digits", "synthetic"),
        "folder, csv, npz and TFDS data sets",
        is_mistake=True,
    ),
    Condition(
        ("data.examples", "data.classes"),
        "data.name",
        _is_data("synthetic"),
        "synthetic data (--data.name synthetic); for other data, they are counted",
        is_mistake=True,
    ),
    Condition(
        ("data.eval_fraction", "data.split_seed", "data.held_out"),
        "data.name",
        _is_data("csv", "digits", "folder"),
        "digits, a CSV file and a folder of classes, of which a share is held out",
        is_mistake=True,
    ),
    Condition(("data.image_key", "data.label_key"), "data.name", _is_tfds, "TFDS data sets", True),
    Condition(("data.listing",), "data.name", _is_data("folder"), "folders of photos", True),
    Condition(("data.remap_labels",), "data.name", _is_data("npz"), "npz files", True),
    Condition(
        ("data.multi_label",), "data.name", _is_data("csv", "npz"), "npz and CSV files", True
    ),
    Condition(("data.train_split",), "data.name", _is_encoded, _FILES, True),
    Condition(
        ("data.eval_split", "data.test_split"),
        "data.name",
        lambda config: _is_encoded(config) or (config.data.name == "npz" and _tests(config)),
        f"{_FILES}, and with data.test_split to npz files",
        is_mistake=True,
    ),
    Condition(
        ("data.on_bad_image", "data.max_pixels", "data.max_image_bytes", "data.decoder"),
        "data.name",
        _is_encoded,
        _FILES,
    ),
    Condition(
        ("data.retries",),
        "data.name",
        lambda config: config.data.name not in ("digits", "synthetic"),
        "data that are read from files",
    ),
    Condition(
        ("data.prefetch",), "data.threads", _reads_ahead, "reading by threads or by data.workers"
    ),
    Condition(
        ("data.mean", "data.std"),
        "data.whiten",
        lambda config: config.data.whiten == "none",
        "data.whiten none",
        is_mistake=True,
    ),
    Condition(
        ("data.std",),
        "data.mean",
        lambda config: config.data.mean != "measure" or config.data.centres_only,
        "a data.mean that is given; to subtract the measured mean alone, data.std is 1",
        is_mistake=True,
    ),
    Condition(
        ("data.whiten_epsilon",),
        "data.whiten",
        lambda config: config.data.whiten != "none",
        "data.whiten pca and zca",
    ),
    Condition(
        ("init.head",),
        "init.weights",
        lambda config: config.init.weights is not None,
        "runs that start from init.weights",
        is_mistake=True,
    ),
    Condition(
        ("augment.crop",),
        "augment.scale",
        lambda config: not any(config.augment.scale),
        "runs without scale jitter",
    ),
    Condition(
        ("augment.size_ramp", "augment.size_step"),
        "augment.size_start",
        _is_set("augment", "size_start"),
        "images that grow, augment.size_start above 0",
    ),
    Condition(
        ("augment.area", "augment.aspect"),
        "augment.crop",
        lambda config: any(config.augment.scale) or config.augment.crop == "random_resized",
        "augment.crop random_resized",
    ),
    Condition(
        ("augment.pad", "augment.pad_mode"),
        "augment.crop",
        lambda config: any(config.augment.scale) or config.augment.crop == "pad",
        "augment.crop pad",
    ),
    Condition(
        ("augment.area", "augment.aspect", "augment.pad", "augment.pad_mode"),
        "augment.scale",
        lambda config: not any(config.augment.scale),
        "runs without scale jitter",
    ),
    Condition(
        ("augment.fill",),
        "augment.policy",
        lambda config: config.augment.policy != "" or config.augment.moves,
        "a policy, or rotate, translate, shear or zoom",
    ),
    Condition(
        ("augment.blur_sigma",),
        "augment.blur",
        lambda config: config.augment.blur > 0,
        "augment.blur above 0",
    ),
    Condition(
        ("mix.label_smoothing",),
        "loss.threshold",
        lambda config: config.loss.threshold is None or config.mix.mixes,
        "targets that stay soft",
    ),
    Condition(
        ("mix.smooth_over",),
        "mix.label_smoothing",
        lambda config: config.mix.label_smoothing > 0,
        "label smoothing",
    ),
    Condition(
        ("mix.probability", "mix.per", "mix.off"),
        "mix.mixup",
        lambda config: config.mix.mixes,
        "mix.mixup or mix.cutmix above 0",
    ),
    Condition(
        ("mix.switch",),
        "mix.mixup",
        lambda config: config.mix.mixup > 0,
        "mix.mixup and mix.cutmix, both above 0",
    ),
    Condition(
        ("mix.switch",),
        "mix.cutmix",
        lambda config: config.mix.cutmix > 0 or config.mix.mixup == 0,
        "mix.mixup and mix.cutmix, both above 0",
    ),
    Condition(
        ("mix.erasing_area", "mix.erasing_aspect", "mix.erasing_fill"),
        "mix.erasing",
        lambda config: config.mix.erasing > 0,
        "mix.erasing above 0",
    ),
    Condition(
        ("loss.threshold",), "loss.name", lambda config: config.loss.name == "bce", "loss.name bce"
    ),
    Condition(
        ("loss.reduction",),
        "loss.name",
        lambda config: config.loss.name == "bce" or config.data.multi_label,
        "loss.name bce",
    ),
    Condition(
        ("loss.gamma",), "loss.name", lambda config: config.loss.name == "focal", "loss.name focal"
    ),
    Condition(("loss.l1_on",), "loss.l1", lambda config: config.loss.l1 > 0, "loss.l1 above 0"),
    Condition(("loss.l2_on",), "loss.l2", lambda config: config.loss.l2 > 0, "loss.l2 above 0"),
    Condition(
        ("ema_every",),
        "ema_decay",
        lambda config: config.averages,
        "runs that average their weights (ema_decay or swa_start)",
    ),
    Condition(
        ("ema_rule",),
        "ema_decay",
        lambda config: config.ema_decay > 0 and not config.swa_start,
        "a moving average, with an ema_decay above 0 and no swa_start",
    ),
    Condition(
        ("ema_decay",),
        "swa_start",
        lambda config: not config.swa_start,
        "runs without swa_start, which averages with equal factors",
        is_mistake=True,
    ),
    Condition(
        ("optim.nesterov",),
        "optim.momentum",
        lambda config: config.optim.momentum > 0,
        "a momentum above 0",
    ),
    Condition(
        ("optim.nesterov",),
        "optim.name",
        lambda config: config.optim.name != "lamb" or config.optim.momentum == 0,
        "sgd, adamw, rmsprop and lars",
    ),
    Condition(
        ("optim.beta2", "optim.epsilon"),
        "optim.name",
        lambda config: config.optim.name in ("adamw", "lamb", "rmsprop"),
        "optim.name adamw, lamb and rmsprop",
    ),
    Condition(
        ("optim.trust",),
        "optim.name",
        lambda config: config.optim.name == "lars",
        "optim.name lars",
    ),
    Condition(
        ("optim.power",),
        "optim.schedule",
        lambda config: config.optim.schedule == "polynomial",
        "optim.schedule polynomial",
    ),
    Condition(
        ("optim.floor",),
        "optim.schedule",
        lambda config: config.optim.schedule not in ("step", "constant"),
        "schedules that decay continuously",
    ),
    Condition(
        ("optim.hold",),
        "optim.schedule",
        lambda config: config.optim.schedule in ("cosine", "linear", "polynomial", "one_cycle"),
        "schedules that end at optim.floor",
    ),
    Condition(("optim.cycle",), "optim.hold", _is_set("optim", "hold"), "runs with optim.hold"),
    Condition(("optim.cycle_lr",), "optim.cycle", _is_set("optim", "cycle"), "optim.cycle"),
    Condition(
        ("optim.scaling",),
        "optim.lr_batch",
        lambda config: config.optim.lr_batch > 0,
        "a rate that is scaled with the batch, optim.lr_batch above 0",
    ),
    Condition(
        ("optim.decay",),
        "optim.name",
        lambda config: config.optim.weight_decay > 0 and config.optim.name not in ("lars", "lamb"),
        "a weight decay above 0 in sgd, adamw and rmsprop",
    ),
    Condition(
        ("optim.milestones", "optim.gamma"),
        "optim.schedule",
        lambda config: config.optim.schedule == "step",
        "optim.schedule step",
    ),
    Condition(
        ("optim.decay_mask",),
        "optim.weight_decay",
        lambda config: config.optim.weight_decay > 0 or config.optim.name in ("lars", "lamb"),
        "a weight decay above 0",
    ),
    Condition(
        ("norm_group_size", "model.norm_momentum", "eval.precise_bn"),
        "model.norm",
        lambda config: getattr(spec_of(config), "norm", "batch") == "batch",
        "BatchNorm",
    ),
    Condition(
        ("model.norm_groups",),
        "model.norm",
        lambda config: spec_of(config).norm == "group",
        "model.norm group",
    ),
    Condition(
        ("model.activation_slope",),
        "model.activation",
        lambda config: spec_of(config).activation in ("leaky_relu", "prelu"),
        "model.activation leaky_relu and prelu",
    ),
    Condition(
        ("model.kernel_fan", "model.kernel_slope"),
        "model.kernel_init",
        lambda config: spec_of(config).kernel_init.startswith("kaiming"),
        "model.kernel_init kaiming_normal and kaiming_uniform",
    ),
    Condition(
        ("model.kernel_std",),
        "model.kernel_init",
        lambda config: spec_of(config).kernel_init == "normal",
        "model.kernel_init normal",
    ),
    Condition(
        ("model.se_ratio",),
        "model.attention",
        lambda config: spec_of(config).attention == "se",
        "model.attention se",
    ),
    Condition(
        ("model.drop_block_size",),
        "model.drop_block",
        lambda config: spec_of(config).drop_block > 0,
        "model.drop_block above 0",
    ),
    Condition(
        ("model.block",),
        "model.stage_blocks",
        lambda config: not spec_of(config).stage_blocks,
        "networks without model.stage_blocks",
    ),
)
"""Conditions of all other options."""
