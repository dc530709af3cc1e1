"""Which options have an effect, so that one that is given in vain does not pass in silence.

A new option of `RunConfig` goes into `ALWAYS` or into `CONDITIONS`. Nothing here imports JAX.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from resnet_jax.zoo import get_spec
from train.config import ConfigError, DataConfig, RunConfig
from train.config.serialize import flatten, to_json

ALWAYS = (
    *("duration", "batch_size", "seed", "precision", "ema_decay", "scan", "skip_nonfinite"),
    *("log_every", "compilation_cache"),
    *("model.name", "model.depths", "model.stage_blocks", "model.stage_widths", "model.width"),
    *("model.groups", "model.group_width", "model.reduce_first", "model.stem", "model.stem_width"),
    *("model.stem_pool", "model.stride_at", "model.shortcut", "model.shortcut_kernel"),
    *("model.avg_down", "model.anti_alias", "model.preact", "model.activation"),
    *("model.attention", "model.norm", "model.norm_epsilon", "model.weight_standardization"),
    *("model.output_stride", "model.zero_gamma", "model.kernel_init", "model.drop_path"),
    *("model.drop_block", "model.block_dropout", "model.dropout", "model.drop_connect"),
    *("init.weights", "data.name", "data.order", "data.image_size", "data.mean", "data.std"),
    *("data.threads", "data.workers", "data.resident", "data.stall_seconds"),
    *("augment.crop", "augment.flip", "mix.label_smoothing"),
    *("mix.mixup", "mix.cutmix", "mix.cutout", "mix.erasing"),
    *("optim.name", "optim.lr", "optim.lr_batch", "optim.momentum"),
    *("optim.weight_decay", "optim.clip", "optim.schedule", "optim.warmup"),
    *("eval.every", "eval.batch_size", "eval.crop_fraction", "eval.interpolation"),
    *("checkpoint.every", "checkpoint.keep", "checkpoint.best"),
    *("mesh.coordinator", "mesh.processes", "mesh.process_id", "mesh.fsdp", "mesh.fsdp_params"),
)
"""Options that always have an effect, or whose own check refuses the other cases."""


class Condition(NamedTuple):
    """Options that have an effect under a condition only."""

    options: tuple[str, ...]
    decides: str
    """The option that decides."""
    holds: Callable[[RunConfig], bool]
    belongs: str
    """What the options belong to, in words."""
    is_mistake: bool = False
    """Whether giving them in vain is an error; else it is a warning."""


_BUILT_IN = ("digits", "npz", "synthetic")
_FILES = "folders and TFDS data sets"


def _is_data(*names: str) -> Callable[[RunConfig], bool]:
    return lambda config: config.data.name in names


def _is_encoded(config: RunConfig) -> bool:
    """Whether images are read from encoded files."""
    return config.data.name not in _BUILT_IN


def _is_tfds(config: RunConfig) -> bool:
    return config.data.name not in (*_BUILT_IN, "folder")


def _spec(config: RunConfig) -> Any:
    return get_spec(config.model.name, **config.model.changes)


def _reads_ahead(config: RunConfig) -> bool:
    return config.data.threads > 0 or config.data.workers > 0


CONDITIONS = (
    Condition(
        ("data.dir",),
        "data.name",
        lambda config: config.data.name not in ("digits", "synthetic"),
        "folder, npz and TFDS data sets",
        is_mistake=True,
    ),
    Condition(
        ("data.examples", "data.classes"),
        "data.name",
        _is_data("synthetic"),
        "synthetic data (--data.name synthetic); other data are counted",
        is_mistake=True,
    ),
    Condition(
        ("data.eval_fraction", "data.split_seed", "data.held_out"),
        "data.name",
        _is_data("digits", "folder"),
        "digits and a folder of class folders, of which a share is held out",
        is_mistake=True,
    ),
    Condition(("data.image_key", "data.label_key"), "data.name", _is_tfds, "TFDS data sets", True),
    Condition(("data.listing",), "data.name", _is_data("folder"), "folders of photos", True),
    Condition(("data.remap_labels",), "data.name", _is_data("npz"), "npz files", True),
    Condition(
        ("data.train_split", "data.eval_split"), "data.name", _is_encoded, _FILES, is_mistake=True
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
        ("init.head",),
        "init.weights",
        lambda config: config.init.weights is not None,
        "a run that starts from init.weights",
        is_mistake=True,
    ),
    Condition(
        ("augment.area", "augment.aspect"),
        "augment.crop",
        lambda config: config.augment.crop == "random_resized",
        "augment.crop random_resized",
    ),
    Condition(
        ("augment.pad",),
        "augment.crop",
        lambda config: config.augment.crop == "pad",
        "augment.crop pad",
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
        lambda config: config.mix.mixup > 0 and config.mix.cutmix > 0,
        "mix.mixup and mix.cutmix, both above 0",
    ),
    Condition(
        ("mix.erasing_area", "mix.erasing_aspect", "mix.erasing_fill"),
        "mix.erasing",
        lambda config: config.mix.erasing > 0,
        "mix.erasing above 0",
    ),
    Condition(
        ("optim.nesterov",),
        "optim.momentum",
        lambda config: config.optim.momentum > 0,
        "a momentum above 0",
    ),
    Condition(
        ("optim.beta2", "optim.epsilon"),
        "optim.name",
        lambda config: config.optim.name == "adamw",
        "optim.name adamw",
    ),
    Condition(
        ("optim.milestones", "optim.gamma"),
        "optim.schedule",
        lambda config: config.optim.schedule == "step",
        "optim.schedule step",
    ),
    Condition(
        ("optim.decay", "optim.decay_mask"),
        "optim.weight_decay",
        lambda config: config.optim.weight_decay > 0,
        "a weight decay above 0",
    ),
    Condition(
        ("norm_group_size", "model.norm_momentum"),
        "model.norm",
        lambda config: getattr(_spec(config), "norm", "batch") == "batch",
        "BatchNorm",
    ),
    Condition(
        ("model.norm_groups",),
        "model.norm",
        lambda config: _spec(config).norm == "group",
        "model.norm group",
    ),
    Condition(
        ("model.se_ratio",),
        "model.attention",
        lambda config: _spec(config).attention == "se",
        "model.attention se",
    ),
    Condition(
        ("model.drop_block_size",),
        "model.drop_block",
        lambda config: _spec(config).drop_block > 0,
        "model.drop_block above 0",
    ),
    Condition(
        ("model.block",),
        "model.stage_blocks",
        lambda config: not _spec(config).stage_blocks,
        "networks without model.stage_blocks",
    ),
)
"""Every other option."""

EVALUATION = ("data.", "eval.", "precision", "compilation_cache")
"""What `eval` accepts of a run's options, by their beginnings."""
_TRAINING_ONLY = ("data.order", "data.resident", "data.decoder", "eval.every")

PREDICTION = (
    *("data.image_size", "data.mean", "data.std", "data.max_pixels", "data.max_image_bytes"),
    *("eval.crop_fraction", "eval.interpolation", "precision", "compilation_cache"),
)
"""What has an effect on `predict`, by a run's options."""


def accepted_by_eval(name: str) -> bool:
    """Whether an option has a meaning in `eval`."""
    return name.startswith(EVALUATION) and name not in _TRAINING_ONLY


def changes(config: RunConfig, base: RunConfig) -> dict[str, Any]:
    """What differs between two configs: option -> its value in `config`."""
    now, before = flatten(to_json(config)), flatten(to_json(base))
    return {name: now.get(name) for name in {**before, **now} if now.get(name) != before.get(name)}


def in_vain(config: RunConfig, base: RunConfig) -> tuple[list[str], list[str]]:
    """What was changed from `base`, a recipe or a run, and has no effect in `config`.

    Returns:
      Mistakes and warnings, a message each.
    """
    changed = changes(config, base)
    values = flatten(to_json(config))
    mistakes: list[str] = []
    warnings: list[str] = []
    for condition in CONDITIONS:
        names = [name for name in condition.options if name in changed]
        if not names or condition.holds(config):
            continue
        decides = condition.decides
        value = values.get(decides, getattr(_spec(config), decides.rpartition(".")[2], None))
        for name in names:
            said = (
                f"--{name} {shown(changed[name])} has no effect with {decides} {shown(value)}: "
                f"it belongs to {condition.belongs}"
            )
            (mistakes if condition.is_mistake else warnings).append(said)
    return mistakes, warnings


def check_effects(config: RunConfig, base: RunConfig) -> list[str]:
    """The warnings of `in_vain`, one message each.

    Raises:
      ConfigError: an option is given in vain, and that is a mistake.
    """
    mistakes, warnings = in_vain(config, base)
    if mistakes:
        raise ConfigError("\n  ".join(mistakes))
    return warnings


def check_applicable(
    command: str, trained: RunConfig, given: RunConfig, accepts: Callable[[str], bool]
) -> list[str]:
    """Warnings of what `command` was given in vain; `trained` is the config of the run.

    Args:
      accepts: which options have an effect on the command, by name.

    Raises:
      ConfigError: an option that decides the training, or that the data do not use.
    """
    changed = changes(given, trained)
    old = flatten(to_json(trained))
    for name, value in changed.items():
        if not name.startswith(EVALUATION):
            raise ConfigError(
                f"{command} cannot change {name}: {shown(old.get(name))} -> {shown(value)}; "
                "it can change data.*, eval.*, precision"
            )
    useless = [name for name in changed if not accepts(name)]
    used = [f"--{name} has no effect on {command}" for name in useless]
    return used + [w for w in check_effects(given, trained) if not _is_about(w, useless)]


def unused_by_folder(
    unused: Mapping[str, str], data: DataConfig, base: Mapping[str, Any]
) -> list[str]:
    """Warnings of options that the layout of a folder does not use.

    Args:
      unused: option of `DataConfig` -> why; see `Splits.unused`.
      base: values of the same options in the recipe or in the run.
    """
    return [
        f"--data.{name} {shown(getattr(data, name))} has no effect: {why}"
        for name, why in unused.items()
        if getattr(data, name) != base.get(name)
    ]


def _is_about(message: str, names: Iterable[str]) -> bool:
    return any(message.startswith(f"--{name} ") for name in names)


def shown(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "''"
    return "''" if value == "" else str(value)
