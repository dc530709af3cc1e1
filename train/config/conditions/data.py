"""Conditions of the options of the data, of `init.*` and of augmentation."""

from collections.abc import Callable

from train.config import RunConfig
from train.config.conditions.base import Condition, is_set

_BUILT_IN = ("digits", "npz", "synthetic")
_FILES = "folders, CSV files and TFDS data sets"


def _is_data(*names: str) -> Callable[[RunConfig], bool]:
    return lambda config: config.data.name in names


def _is_encoded(config: RunConfig) -> bool:
    """Whether images are read from encoded files."""
    return config.data.name not in _BUILT_IN


def _is_tfds(config: RunConfig) -> bool:
    return config.data.name not in (*_BUILT_IN, "csv", "folder")


def _tests(config: RunConfig) -> bool:
    return bool(config.data.test_split)


def _reads_ahead(config: RunConfig) -> bool:
    return config.data.threads > 0 or config.data.workers > 0


DATA = (
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
        is_set("augment", "size_start"),
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
)
