"""All that is to be measured on one H200, or another single GPU, in one command and ten minutes.

    python -m benchmarks.h200 --out DIR [--only step cifar ...] [--photos DIR] [--tiny]

Into DIR go rows.jsonl (a line for each benchmark that got through), a log of each, and report.md:

  step      ResNet-50, bfloat16, batch 256: ours, torchvision eager and torch.compile, in turn
  profile   its ten longest kernels
  cifar     ResNet-20 on CIFAR-10's shapes, the data on the device where `data.resident` is there
  photos    ResNet-50 from JPEG files on (a folder that `bench end_to_end` reads; else made up)
  batches   ours at batch 128, 512 and 1024
  jax       ours beside plain linen, and with every BatchNorm behind its convolution

in this order, until the minutes are over. Compiled programs are kept in DIR/cache meanwhile.
`--tiny` tries all of it where there is no GPU.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from train.config import DataConfig

ROOT = Path(__file__).parents[1]
Commands = list[list[str]]


def commands(folder: Path, photos: Path | None, tiny: bool) -> dict[str, Callable[[], Commands]]:
    """The `bench` commands of each part; data are made when a part begins."""
    network, batch, pixels = ("resnet18", 8, 32) if tiny else ("resnet50", 256, 224)
    case = f"{network},{batch},{pixels}"
    short = ["--rounds", "1", "--samples", "1", "--warm_seconds", "0"] if tiny else []
    windows = ["--windows", "1", "--steps", "2"] if tiny else ["--windows", "5", "--steps", "50"]
    cores = str(os.cpu_count())

    def cifar() -> Commands:
        data = ["--data.name", "npz", "--data.dir", str(arrays(folder, 256 if tiny else 50_000))]
        many = ["--windows", "1", "--steps", "2"] if tiny else ["--windows", "4", "--steps", "390"]
        there = "resident" in {field.name for field in dataclasses.fields(DataConfig)}
        where = ["--data.resident", "True"] if there else []
        size = ["--batch_size", "32"] if tiny else ["--precision", "bf16"]
        return [["end_to_end", "cifar10-resnet20", *data, *where, *size, *many]]

    def jpegs() -> Commands:
        data = ["--data.dir", str(photos or make_photos(folder, 32 if tiny else 1024))]
        sizes = ["--batch_size", str(batch), "--data.image_size", str(pixels)]
        model = ["--model.name", network, "--precision", "bf16", "--data.threads", cores]
        return [["end_to_end", "folder", *data, *sizes, *model, *windows]]

    both = ["--peers", "torchvision", "torchvision-compile"]
    batches = [f"{network},{n},{pixels}" for n in ((4,) if tiny else (128, 512, 1024))]
    return {
        "step": lambda: [["step", case, "--precision", "bf16", *both, *short]],
        "profile": lambda: [["profile", case, "--precision", "bf16"]],
        "cifar": cifar,
        "photos": jpegs,
        "batches": lambda: [["step", *batches, "--precision", "bf16", *short]],
        "jax": lambda: [
            ["step", case, "--precision", "bf16", "--peers", "flax", "ours-plain-norm", *short]
        ],
    }


def arrays(folder: Path, examples: int) -> Path:
    """Random pixels in CIFAR-10's shapes."""
    path = folder / "cifar.npz"
    rng = np.random.default_rng(0)
    held_out = max(examples // 50, 10)
    images = rng.integers(0, 256, (examples + held_out, 32, 32, 3), np.uint8)
    labels = np.arange(len(images)) % 10
    np.savez(
        path,
        x_train=images[:examples],
        y_train=labels[:examples],
        x_test=images[examples:],
        y_test=labels[examples:],
    )
    return path


def make_photos(folder: Path, count: int) -> Path:
    """JPEGs of 500x375 pixels and about as many bytes as photographs of this size."""
    rng = np.random.default_rng(0)
    for i in range(count + 16):
        where = folder / "photos" / ("train" if i < count else "val") / "ab"[i % 2]
        where.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8))
        image = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        image = image + rng.integers(-12, 13, image.shape, np.int16)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(where / f"{i:05}.jpg", quality=85)
    return folder / "photos"


def run(args: list[str], log: Path, seconds: float, cache: Path) -> str:
    """A `bench` command with its output in a log; how it ended."""
    since = time.monotonic()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    with log.open("a") as file:
        print("resnet-jax bench", *args, file=file, flush=True)
        command = [sys.executable, "-m", "train", "bench", *args]
        try:
            code = subprocess.run(
                command, stdout=file, stderr=file, env=env, timeout=seconds, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s, when the minutes were over"
    return f"exit code {code} after {time.monotonic() - since:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    parser.add_argument("--only", nargs="+", help="these parts, in this order")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs, as `--data.dir` of a run")
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--tiny", action="store_true", help="try it, at sizes for a CPU")
    args = parser.parse_args()
    out: Path = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    parts = commands(out, args.photos, args.tiny)
    if unknown := set(args.only or ()) - set(parts):
        parser.error(f"only {', '.join(unknown)}: choose from {', '.join(parts)}")
    rows = out / "rows.jsonl"
    for name in args.only or parts:
        for command in parts[name]() if time.monotonic() < end else []:
            left = max(end - time.monotonic(), 1)
            full = [*command, "--out", str(rows)]
            print(f"{name}: {run(full, out / f'{name}.log', left, out / 'cache')}", flush=True)
    if rows.exists():
        report = [sys.executable, "-m", "train", "bench", "report", str(rows)]
        text = subprocess.run(report, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        (out / "report.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
