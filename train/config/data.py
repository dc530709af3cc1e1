"""The options of the data, `data.*`."""

import math
from dataclasses import dataclass
from typing import Literal

from train.config.base import check, check_types, is_finite


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how they are read."""

    name: str = "digits"
    """digits, folder, csv, npz, synthetic, or a TFDS data set ("cifar10", "imagenet2012:5.1.0")."""
    dir: str | None = None
    """Folder of photos, .csv or .npz file, folder of .csv files, or TFDS data directory (None: the
    default of TFDS)."""
    train_split: str = "train"
    """Split to train on, or a slice of it in TFDS, such as "train[:90%]". In a folder, other
    spellings are found too ("Train", "training"). Of CSV files: train.csv."""
    eval_split: str = "test"
    """Split to evaluate on. In a folder, other spellings are found too ("valid", "validation")."""
    test_split: str = ""
    """Split on which the best checkpoint is reported at the end of the run, if it is not the one
    that chooses it, `eval_split`; '': both are the same."""
    image_key: str | None = None
    """The feature of a TFDS data set that is the image. None: the one that the data set declares
    (supervised_keys), else the only image, else "image". A resumed run keeps its feature."""
    label_key: str | None = None
    """The feature of a TFDS data set that is the class label; None: found in the same way."""
    multi_label: bool = False
    """Whether an image may have several labels, or none: y_train is a 0/1 matrix in an npz file; in
    a CSV file, the labels of a row are separated by spaces or ";". Needs loss.name bce or focal."""
    remap_labels: bool = False
    """Map the labels of an npz file, such as ids, to 0, 1, 2, ... in ascending order."""
    eval_fraction: float = 0.2
    """Share held out for evaluation if there is only one split (digits, a folder of classes, a CSV
    file)."""
    split_seed: int = 0
    """Seed of the held-out share. It is separate from `seed`, so that all runs share a test set."""
    held_out: Literal["by_name", "by_place"] = "by_name"
    """How the held-out share is chosen: by a hash of each file's name (digits: the exact share of
    each class), or by the position in the list of files, as before this option existed. A resumed
    run keeps its rule."""
    balance: Literal["none", "inverse", "sqrt_inverse"] = "none"
    """Sampling of the training examples by class: as they are, in inverse frequency (each class
    equally often), or in the inverse square root of the frequency."""
    order: Literal[1, 2] = 2
    """Version of the shuffle; 1: as before this option existed. A resumed run keeps its version."""
    listing: Literal[1, 2] = 2
    """Version of the rule that finds images in a folder; 1: as before this option existed (.jpg,
    .jpeg, .png, .webp and .bmp, also hidden files). A resumed run keeps its version."""
    image_size: int = 224
    """Side of the square input images of the network, in pixels."""
    mean: tuple[float, ...] | Literal["measure", "image"] = (0.485, 0.456, 0.406)
    """Mean of each channel, for pixels scaled to 0..1. measure: mean and standard deviation of the
    training images, measured at the start and kept; image: a mean of each pixel, measured and kept
    too (He 2016a, 3.4)."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel, for pixels scaled to 0..1. 1: only the mean is
    subtracted, also with data.mean measure."""
    whiten: Literal["none", "pca", "zca"] = "none"
    """Whiten small images with their mean and covariance over the training split, in place of
    data.mean and data.std. pca: the network sees the principal components, scaled to variance 1, in
    place of pixels; zca: these rotated back, which look like images."""
    whiten_epsilon: float = 5e-4
    """Added to the variances of the components, of pixels scaled to 0..1, before whitening."""
    on_bad_image: Literal["error", "skip"] = "error"
    """If an image cannot be read: stop with an error, or skip, count and report it."""
    max_pixels: int = 100_000_000
    """Images with more pixels cannot be read (protection against decompression bombs)."""
    max_image_bytes: int = 768 * 2**20
    """Largest memory for decoding and resizing one image, in bytes. An image that needs more is not
    decoded. Each reading thread may use this much."""
    threads: int = 4
    """Threads for reading and decoding in each process; 0: one, which reads one batch ahead."""
    workers: int = 0
    """Processes for reading and decoding, with `threads` threads each; 0: this process reads."""
    prefetch: int = 2
    """Number of batches to read ahead."""
    decoder: Literal["cpu", "dali"] = "cpu"
    """Where training JPEGs are decoded, cropped and resized: on the CPU, or with NVIDIA DALI on the
    GPU, for hosts with few cores (pip install -e '.[dali]'). The crops are the same."""
    retries: int = 5
    """How often a read is retried after a temporary error (of a network or server), with delays of
    0.1, 0.2, 0.4, ... seconds."""
    resident: Literal["auto", "on", "off"] = "auto"
    """Keep the training images on the devices, and crop and flip them there: the batches are the
    same. auto: on a GPU or TPU, if the images take at most 2 GiB, the run is at least one epoch in
    one process, and augment.crop is pad or none."""
    stall_seconds: float = 60.0
    """If a batch takes longer, in seconds, a warning is printed, and repeated at this interval."""
    examples: int = 1280
    """Examples in each split of synthetic data."""
    classes: int = 1000
    """Number of classes of synthetic data."""

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
        epsilon = self.whiten_epsilon
        check("data.whiten_epsilon", epsilon, 0 < epsilon < math.inf, "must be positive")
        for where, values in (("data.mean", self.mean), ("data.std", self.std)):
            if isinstance(values, str):
                continue
            check(where, values, len(values) in (1, 3), "needs one value, or three for RGB")
            check(where, values, is_finite(*values), "must be finite")
        check("data.std", self.std, min(self.std) > 0, "must be positive")

    @property
    def centres_only(self) -> bool:
        """Whether images are only centred: `std` is 1."""
        return set(self.std) == {1.0}

    @property
    def measured_name(self) -> str:
        """What `measures` means for these options, in words."""
        if self.whiten != "none":
            return f"mean image and {self.whiten} whitening matrix"
        mean = {"image": "mean image", "measure": "mean" if self.centres_only else "mean and std"}
        return mean.get(str(self.mean), "")

    @property
    def measures(self) -> bool:
        """Whether something is measured on the training images before the first step."""
        return self.whiten != "none" or isinstance(self.mean, str)
