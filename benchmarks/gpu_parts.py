"""The parts of `python -m benchmarks.h200`, the most important first."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import synthetic_data

ROOT = Path(__file__).parents[1]
Command = list[str]
"""Arguments of `python`."""


@dataclass(frozen=True)
class Part:
    """Commands of one part; `seconds` is its share of nine minutes."""

    seconds: float
    commands: Callable[[float], list[Command]]
    """(remaining seconds) -> commands; also writes synthetic data."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the workloads."""

    network: str = "resnet50"
    batch: int = 256
    pixels: int = 224
    batches: tuple[int, ...] = (128, 512, 1024)
    images: int = 50_000
    """Training images of the synthetic CIFAR-10."""
    photos: int = 512
    tests: tuple[str, ...] = ()
    """Options of pytest."""
    model: tuple[str, ...] = ()
    """Options of our networks."""
    rounds: tuple[str, ...] = ()
    """Options of `bench step`."""
    small_images: tuple[str, ...] = ("--windows", "4", "--steps", "390")
    """Options of training on images in device memory."""
    large_images: tuple[str, ...] = ("--windows", "3", "--steps", "25")
    """Options of training on photos."""
    digits: tuple[str, ...] = ()
    """Options of the run on the digits."""


TINY = Sizes(
    network="resnet20_cifar",
    batch=4,
    pixels=32,
    batches=(4,),
    images=128,  # a batch of the recipe
    photos=8,
    tests=("-k", "digests or anti_aliasing"),
    model=("--model.depths", "1", "1", "1", "--model.width", "8"),
    rounds=("--rounds", "1", "--samples", "1", "--warm_seconds", "0"),
    small_images=("--windows", "1", "--steps", "2"),
    large_images=("--windows", "1", "--steps", "2"),
    digits=("--duration", "10st"),
)


HALF = ("--precision", "bf16")
THREADS = ("--data.threads", str(os.cpu_count()))


def parts(
    rows: Path, scratch: Path, sizes: Sizes, photos: Path | None, cifar: Path | None
) -> dict[str, Part]:
    """All parts by name.

    Args:
      rows: the file to which results are appended.
      scratch: folder of other files.
      sizes: of the workloads.
      photos: `--data.dir` of the recipe folder; None: synthetic photos.
      cifar: `--data.dir` of the recipe cifar10-resnet20; None: random images.
    """
    make = _Commands(rows, scratch, sizes)
    case = f"{sizes.network},{sizes.batch},{sizes.pixels}"
    torch, linen = ("torchvision", "torchvision-compile"), ("ours-plain-norm", "flax")
    return {
        "right": Part(80, lambda left: make.tests()),
        "step": Part(125, lambda left: [make.step(left, case, "--peers", *torch)]),
        "jax": Part(80, lambda left: [make.step(left, case, "--peers", *linen)]),
        "profile": Part(30, lambda left: [make.bench("profile", case, *HALF)]),
        "cifar": Part(120, lambda left: make.cifar(left, cifar)),
        "batches": Part(60, make.batches),
        "photos": Part(45, lambda left: make.photos(photos)),
    }


@dataclass(frozen=True)
class _Commands:
    """Makes the commands of the parts."""

    rows: Path
    scratch: Path
    sizes: Sizes

    def bench(self, name: str, *args: str) -> Command:
        return ["-m", "train", "bench", name, *args, *self.sizes.model, "--out", str(self.rows)]

    def step(self, seconds: float, *args: str) -> Command:
        limit = ("--seconds", f"{max(0.9 * seconds, 1):.0f}")
        return self.bench("step", *args, *HALF, *self.sizes.rounds, *limit)

    def tests(self) -> list[Command]:
        flags = ["-v", "-W", "default", "-p", "no:cacheprovider", *self.sizes.tests]
        xml = f"--junitxml={self.scratch / 'right.xml'}"
        return [["-m", "pytest", "-m", "gpu", *flags, xml, str(ROOT / "tests/test_gpu.py")]]

    def batches(self, left: float) -> list[Command]:
        sizes = self.sizes
        each = left / len(sizes.batches)
        return [self.step(each, f"{sizes.network},{size},{sizes.pixels}") for size in sizes.batches]

    def cifar(self, left: float, folder: Path | None) -> list[Command]:
        """Training with the images in device memory."""
        options = (*THREADS, "--data.resident", "on", *self.sizes.small_images)
        run = (*options, "--workdir", str(self.scratch / "run"), "--seconds")
        if folder:
            data = ("--data.dir", str(folder.absolute()))
            return [self.bench("training", "cifar10-resnet20", *data, *run, f"{0.9 * left:.0f}")]
        file = synthetic_data.arrays(self.scratch, self.sizes.images)
        noise = ("--data.name", "npz", "--data.dir", str(file))
        return [
            self.bench("end_to_end", "cifar10-resnet20", *noise, *options),
            self.bench("training", "digits", *self.sizes.digits, *run, f"{0.4 * left:.0f}"),
        ]

    def photos(self, given: Path | None) -> list[Command]:
        """Training on JPEG files."""
        sizes = self.sizes
        folder = given.absolute() if given else synthetic_data.photos(self.scratch, sizes.photos)
        data = ("--data.dir", str(folder), "--data.image_size", str(sizes.pixels), *THREADS)
        model = ("--model.name", sizes.network, "--batch_size", str(sizes.batch), *HALF)
        return [self.bench("end_to_end", "folder", *data, *model, *sizes.large_images)]
