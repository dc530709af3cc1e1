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
    case = f"{sizes.network},{sizes.batch},{sizes.pixels}"
    half = ("--precision", "bf16")
    threads = ("--data.threads", str(os.cpu_count()))

    def bench(name: str, *args: str) -> Command:
        return ["-m", "train", "bench", name, *args, *sizes.model, "--out", str(rows)]

    def step(seconds: float, *args: str) -> Command:
        limit = ("--seconds", f"{max(0.9 * seconds, 1):.0f}")
        return bench("step", *args, *half, *sizes.rounds, *limit)

    def right(left: float) -> list[Command]:
        flags = ["-v", "-W", "default", "-p", "no:cacheprovider", *sizes.tests]
        xml = f"--junitxml={scratch / 'right.xml'}"
        return [["-m", "pytest", "-m", "gpu", *flags, xml, str(ROOT / "tests/test_gpu.py")]]

    def batches(left: float) -> list[Command]:
        each = left / len(sizes.batches)
        return [step(each, f"{sizes.network},{size},{sizes.pixels}") for size in sizes.batches]

    def on_the_device(left: float) -> list[Command]:
        options = (*threads, "--data.resident", "on", *sizes.small_images)
        run = (*options, "--workdir", str(scratch / "run"), "--seconds")
        if cifar:
            data = ("--data.dir", str(cifar.absolute()))
            return [bench("training", "cifar10-resnet20", *data, *run, f"{0.9 * left:.0f}")]
        noise = (
            "--data.name",
            "npz",
            "--data.dir",
            str(synthetic_data.arrays(scratch, sizes.images)),
        )
        return [
            bench("end_to_end", "cifar10-resnet20", *noise, *options),
            bench("training", "digits", *sizes.digits, *run, f"{0.4 * left:.0f}"),
        ]

    def files(left: float) -> list[Command]:
        folder = photos.absolute() if photos else synthetic_data.photos(scratch, sizes.photos)
        data = ("--data.dir", str(folder), "--data.image_size", str(sizes.pixels), *threads)
        model = ("--model.name", sizes.network, "--batch_size", str(sizes.batch), *half)
        return [bench("end_to_end", "folder", *data, *model, *sizes.large_images)]

    torch, linen = ("torchvision", "torchvision-compile"), ("ours-plain-norm", "flax")
    return {
        "right": Part(80, right),
        "step": Part(125, lambda left: [step(left, case, "--peers", *torch)]),
        "jax": Part(80, lambda left: [step(left, case, "--peers", *linen)]),
        "profile": Part(30, lambda left: [bench("profile", case, *half)]),
        "cifar": Part(120, on_the_device),
        "batches": Part(60, batches),
        "photos": Part(45, files),
    }
