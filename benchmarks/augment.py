"""Speed of the data loader with augmentation, against torchvision's transforms (v2).

    python -m benchmarks.augment [--data DIR] [--cases "ta_wide,augmix"] [--cores 2] [--rounds 7]
        [--batches 4] [--peer_python PYTHON] [--out benchmarks/results/augment.jsonl]

The loaders read, decode, crop and augment the same JPEG files with the same kinds of operations, to
uint8 batches of `--size` pixels. torchvision's is a `DataLoader` with `--cores` processes, on PIL
images or on tensors; Pillow decodes for both. `--peer_python` is a Python with torch, torchvision
and Pillow. The method is that of `benchmarks.input`, which describes the options.

One JSON line for each case: images/s, CPU time per image, and ours / peer in both (median, min, max
over rounds).
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.input import arguments, measure, serve
from benchmarks.loaders import PREFETCH, Loader, find, ours, write_synthetic
from benchmarks.record import command, emit, environment

PEERS = ("ours", "torchvision PIL", "torchvision tensors")

# Case -> our `augment.*`; (v2, InterpolationMode) -> torchvision's transforms after the flip.
CASES: dict[str, tuple[dict[str, Any], Callable[[Any, Any], list[Any]]]] = {
    "crop and flip": ({}, lambda v2, _: []),
    "ta_wide": (
        {"policy": "ta_wide"},
        lambda v2, mode: [v2.TrivialAugmentWide(interpolation=mode.BILINEAR)],
    ),
    "rand-m9-p1": (
        {"policy": "rand-m9-p1"},
        lambda v2, mode: [v2.RandAugment(2, 27, interpolation=mode.BILINEAR)],  # of 30
    ),
    "autoaugment": (
        {"policy": "autoaugment"},
        lambda v2, mode: [v2.AutoAugment(interpolation=mode.BILINEAR)],
    ),
    "augmix": (
        {"policy": "augmix"},
        lambda v2, mode: [v2.AugMix(all_ops=False, interpolation=mode.BILINEAR)],
    ),
    "jitter": (
        {"jitter": (0.4, 0.4, 0.4, 0.0)},
        lambda v2, _: [v2.ColorJitter(0.4, 0.4, 0.4)],
    ),
    "jitter with hue": (
        {"jitter": (0.4, 0.4, 0.4, 0.1)},
        lambda v2, _: [v2.ColorJitter(0.4, 0.4, 0.4, 0.1)],
    ),
    "grey and blur": (
        {"grey": 0.2, "blur": 0.5},
        lambda v2, _: [
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], 0.5),
        ],
    ),
    "affine": (
        {"rotate": 30.0, "translate": 0.1, "shear": 10.0, "zoom": (0.8, 1.2)},
        lambda v2, mode: [
            v2.RandomAffine(30, (0.1, 0.1), (0.8, 1.2), 10, interpolation=mode.BILINEAR)
        ],
    ),
    "scale 256 480": ({"scale": (256, 480)}, lambda v2, _: []),
    "bicubic": ({"interpolation": "bicubic"}, lambda v2, _: []),
}


def torchvision_loader(
    files: list[str], size: int, batch: int, cores: int, case: str, *, tensors: bool
) -> Loader:
    """Batches of a `DataLoader` whose data set decodes with Pillow.

    Args:
      tensors: transforms run on tensors, not on PIL images.
    """
    from benchmarks.systems.torchvision_import import import_torchvision

    import_torchvision()
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import InterpolationMode, v2

    augment, more = CASES[case]
    mode = InterpolationMode(augment.get("interpolation", "bilinear"))
    if "scale" in augment:
        low, high = augment["scale"]
        crop = [v2.RandomShortestSize(list(range(low, high + 1))), v2.RandomCrop(size)]
    else:
        crop = [v2.RandomResizedCrop(size, interpolation=mode)]
    steps = [*crop, v2.RandomHorizontalFlip(), *more(v2, InterpolationMode)]
    transform = v2.Compose([v2.PILToTensor(), *steps] if tensors else [*steps, v2.PILToTensor()])

    class Files(Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            with open(files[index], "rb") as file:
                return transform(Image.open(file).convert("RGB"))

    loader = DataLoader(
        Files(), batch, shuffle=True, num_workers=cores, prefetch_factor=PREFETCH, drop_last=True
    )
    while True:
        for found in loader:
            yield found.numpy()


def work(args: argparse.Namespace) -> None:
    """The child process of a loader."""
    files, rest = find(args.data), (args.size, args.batch, args.cores)
    if args.worker == "ours":
        return serve(ours(files, *rest, "", augment=CASES[args.case][0]), args.drain)
    tensors = args.worker.endswith("tensors")
    return serve(torchvision_loader(files, *rest, args.case, tensors=tensors), args.drain)


def bench(args: argparse.Namespace, case: str) -> dict[str, Any]:
    """The row of one case."""
    before = environment()
    files = find(args.data)
    for file in dict.fromkeys(files):
        Path(file).read_bytes()  # into the page cache
    measured = measure(args, {"case": case}, "benchmarks.augment")
    return {
        **before,
        "benchmark": "augment",
        "case": case,
        "data": {"name": args.data.name, "files": len(set(files))},
        "cores": args.cores,
        "size": args.size,
        "batch": args.batch,
        "rounds": args.rounds,
        **measured,
        "load_after": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], PEERS, "torch and torchvision")
    parser.add_argument("--cases", default=",".join(CASES), help="any of the default")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        try:
            return work(args)
        except ImportError as error:
            raise SystemExit(f"{args.worker}: {error}") from None
    # Exit normally, so that child processes are closed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    args.peers = args.peers.split(",")
    cases = args.cases.split(",")
    if "ours" not in args.peers or set(args.peers) - set(PEERS):
        parser.error(f"--peers: ours and any of {', '.join(PEERS)}")
    if set(cases) - set(CASES):
        parser.error(f"--cases: any of {', '.join(CASES)}")
    with tempfile.TemporaryDirectory() as scratch:
        if not args.data.is_dir():
            args.data = Path(scratch) / "synthetic"
            args.data.mkdir()
            write_synthetic(args.data)
        for case in cases:
            emit({**bench(args, case), "command": command("augment", sys.argv[1:])}, args.out)


if __name__ == "__main__":
    main()
