"""The options of the data: `data.*`, and `augment.*` for what the host does to a training image."""

from dataclasses import dataclass
from typing import Literal

from train.config.base import check, check_types, is_finite


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
        check_types(self, "data.")
        check("data.image_size", self.image_size, self.image_size >= 1, "must be at least 1")
        check("data.threads", self.threads, self.threads >= 0, "must be at least 0")
        check("data.workers", self.workers, self.workers >= 0, "must be at least 0")
        check("data.prefetch", self.prefetch, self.prefetch >= 1, "must be at least 1")
        check("data.retries", self.retries, self.retries >= 0, "must be at least 0")
        check("data.stall_seconds", self.stall_seconds, self.stall_seconds > 0, "must be positive")
        check("data.max_pixels", self.max_pixels, self.max_pixels >= 1, "must be at least 1")
        large = self.max_image_bytes
        check("data.max_image_bytes", large, large >= 1, "must be at least 1")
        check("data.examples", self.examples, self.examples >= 1, "must be at least 1")
        check("data.classes", self.classes, self.classes >= 1, "must be at least 1")
        fraction = self.eval_fraction
        check("data.eval_fraction", fraction, 0 < fraction < 1, "must be between 0 and 1")
        for where, values in (("data.mean", self.mean), ("data.std", self.std)):
            check(where, values, len(values) in (1, 3), "needs one value, or three for RGB")
            check(where, values, is_finite(*values), "must be finite")
        check("data.std", self.std, min(self.std) > 0, "must be positive")


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
        check_types(self, "augment.")
        low, high = self.area
        check("augment.area", self.area, 0 < low <= high <= 1, "needs 0 < low <= high <= 1")
        low, high = self.aspect
        check("augment.aspect", self.aspect, 0 < low <= high, "needs 0 < low <= high")
        check("augment.pad", self.pad, self.pad >= 0, "must be at least 0")
