"""Loaders of the same JPEGs: ours, Grain, and tf.data as in Flax's ImageNet example.

A loader is an iterator over batches: uint8 [batch, size, size, 3], randomly cropped (area 8 to
100 %, aspect 3/4 to 4/3), resized and randomly mirrored, prefetching two batches.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

PREFETCH = 2
NAMES = 2**16  # with a few names, a shuffle would cost less than for a real data set
Loader = Iterator[np.ndarray]


def find(folder: Path) -> list[str]:
    """The JPEGs in a folder and its subfolders, repeated to at least `NAMES` names."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"{folder}: no JPEGs in it")
    return [str(file) for file in files] * -(-NAMES // len(files))


def write_synthetic(folder: Path, count: int = 100) -> None:
    """Writes images of 500x375 that take about as long to decode as ImageNet's (110 kB)."""
    import cv2

    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
        smooth = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        grain = rng.normal(0, 1, (375, 500, 1)) * rng.uniform(5, 25)
        pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        options = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
        cv2.imwrite(str(folder / f"{i:03d}.jpg"), pixels, options)


def write_windows(files: list[str], path: Path) -> None:
    """Writes our random crops of an epoch, for other loaders: int32 [N, 4]."""
    from train.config import AugmentConfig
    from train.data.images.draws import sample_crop
    from train.data.images.jpeg import read_header
    from train.data.philox import generator

    sizes = {}
    for file in dict.fromkeys(files):
        header = read_header(Path(file).read_bytes())
        if header is None:
            raise SystemExit(f"{file}: not a JPEG that libjpeg-turbo reads")
        sizes[file] = header.height, header.width
    crops = [
        sample_crop(*sizes[file], AugmentConfig(), generator(0, 0, i))
        for i, file in enumerate(files)
    ]
    np.save(path, np.array(crops, np.int32))


def source_of(files: list[str]) -> Any:
    """Our data source for a list of files, all with label 0."""
    from train.data.sources import FolderSource

    paths = [Path(file) for file in files]
    return FolderSource(Path(files[0]).parent, paths, [0] * len(files), ["one"])


def ours(
    files: list[str],
    size: int,
    batch: int,
    cores: int,
    windows: str,
    *,
    workers: bool = False,
    decoder: Literal["cpu", "dali"] = "cpu",
    augment: dict[str, Any] | None = None,
) -> Loader:
    """Our training batches, with the augmentation of the ImageNet recipes.

    Args:
      augment: other values of `augment.*`.
      workers: uses a process for each core (`data.workers`) instead of a thread.
      decoder: `data.decoder`.
    """
    from train.config import AugmentConfig, DataConfig
    from train.data.pipeline import train_batches

    data = DataConfig(
        image_size=size,
        prefetch=PREFETCH,
        decoder=decoder,
        threads=1 if workers else cores,
        workers=cores if workers else 0,
    )
    batches = train_batches(
        source_of(files),
        data,
        AugmentConfig(**augment or {}),
        seed=0,
        batch_size=batch,
        start=0,
        stop=10**9,
    )
    return (found["image"] for found in batches)


def by_grain(files: list[str], size: int, batch: int, cores: int, windows: str) -> Loader:
    """Our decoding and crops in a Grain pipeline: its order, threads and batches."""
    import grain

    from train.config import AugmentConfig, DataConfig
    from train.data.images import crops

    limits, augment = crops.limits(DataConfig(image_size=size)), AugmentConfig()

    def view(example: tuple[bytes, int], rng: np.random.Generator) -> np.ndarray:
        return crops.train_image(example[0], size, augment, rng, **limits)

    names = grain.MapDataset.source(source_of(files)).seed(0).shuffle().repeat(None)
    options = grain.ReadOptions(cores, PREFETCH * batch)
    return iter(names.random_map(view).to_iter_dataset(options).batch(batch))


def tf_data(
    files: list[str],
    size: int,
    batch: int,
    cores: int,
    windows: str,
    *,
    same_crops: bool = False,
    antialias: bool = False,
) -> Loader:
    """tf.data: decode_and_crop_jpeg, bilinear resize, flip, in `cores` private threads.

    Args:
      same_crops: uses the crops in `windows`, a file of `write_windows`. Otherwise TensorFlow
        samples them (sample_distorted_bounding_box), with less area on average.
      antialias: resizes with antialiasing, as Pillow and ours; TensorFlow's default has none.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")

    def draw(data: Any) -> Any:
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.constant([0.0, 0.0, 1.0, 1.0], shape=[1, 1, 4]),
            min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
        )
        return tf.stack([begin[0], begin[1], extent[0], extent[1]])

    def read(name: Any, window: Any = None) -> Any:
        data = tf.io.read_file(name)
        window = draw(data) if window is None else window
        pixels = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        pixels = tf.image.resize(pixels, [size, size], method="bilinear", antialias=antialias)
        return tf.cast(tf.image.random_flip_left_right(pixels), tf.uint8)

    names = (files, np.load(windows)) if same_crops else files
    data = tf.data.Dataset.from_tensor_slices(names).repeat().shuffle(16 * batch)
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    data = data.map(read, num_parallel_calls=cores).batch(batch, drop_remainder=True)
    return iter(data.prefetch(PREFETCH).with_options(options).as_numpy_iterator())


LOADERS: dict[str, Callable[..., Loader]] = {
    "ours": ours,
    "ours in processes": partial(ours, workers=True),
    "ours by DALI": partial(ours, decoder="dali"),
    "Grain": by_grain,
    "tf.data": tf_data,
    "tf.data our crops": partial(tf_data, same_crops=True),
    "tf.data our crops antialiased": partial(tf_data, same_crops=True, antialias=True),
}
"""Each is called with (files, size, batch, cores, windows)."""
