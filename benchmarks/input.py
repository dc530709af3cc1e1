"""Speed of the data loader alone, in total and by stage, against Grain and tf.data.

    python -m benchmarks.input [--data DIR] [--peers "ours,tf.data,tf.data our crops"] [--cores 2]
        [--rounds 7] [--batches 4] [--peer_python PYTHON] [--out benchmarks/results/input.jsonl]

Loaders of training batches from JPEG files: random resized crop to `--size` pixels, flip, uint8,
prefetching two batches (`benchmarks/loaders.py`). Each loader runs in a separate process with
`--cores` decoding threads. The loaders are measured in rounds (A B A B ...). While one runs, the
others are stopped (SIGSTOP), so that they cannot prefetch. A measurement first takes `--drain`
batches without counting, to remove prefetched ones, and then measures `--batches`. All files are
read once before, so that they come from the page cache, if they fit.

One JSON line: device, versions, cores, images/s and images/s per core (median, min, max over
rounds), CPU time per image (more stable if others use the machine), ours / peer in both, ours by
stage (CPU time of one thread), and the cores for 1,000 images/s. tf.data is skipped without
TensorFlow, and ours with DALI without DALI. `--peer_python` is another Python with TensorFlow. If
the folder does not exist, synthetic images are used.
"""

import argparse
import atexit
import json
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.loaders import (
    LOADERS,
    PREFETCH,
    Loader,
    find,
    source_of,
    write_synthetic,
    write_windows,
)
from benchmarks.record import at_least_one, command, emit, environment, spread, versions

DATA = Path("../shared/data/imagenet_samples")
PACKAGES = (
    "simplejpeg",
    "turbojpeg",
    "nvidia-dali-cuda130",
    "opencv-python-headless",
    "numpy",
    "grain",
    "tensorflow-cpu",
    "tensorflow",
    "pillow",
    "torch",
    "torchvision",
)
STAGES = 400  # images


def serve(batches: Loader, drain: int) -> None:
    """The child process of a loader: warms up, then reads a number of batches per line of stdin."""
    for _ in range(drain):
        pixels = next(batches)
    facts = {"python": platform.python_version(), "versions": versions(PACKAGES)}
    print(json.dumps({**facts, "batch": [str(pixels.dtype), *pixels.shape]}), flush=True)
    for line in sys.stdin:
        for _ in range(drain):
            next(batches)
        since, before = time.perf_counter(), cpu_seconds()
        for _ in range(int(line)):
            next(batches)
        seconds, cpu = time.perf_counter() - since, cpu_seconds() - before
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu}), flush=True)


def cpu_seconds() -> float:
    """CPU time of this process and its child processes, in seconds."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in user and in system mode, see proc(5)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


class LoaderProcess:
    """A loader in a child process, which is stopped except during measurements."""

    def __init__(self, peer: str, python: str, options: list[str], module: str):
        """Runs `python -m module --worker peer options`, which must call `serve`."""
        self.process = subprocess.Popen(
            [python, "-m", module, "--worker", peer, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a separate group, stopped with its child processes
        )
        self.ready = self._read()
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def _read(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return None

    def measure(self, batches: int) -> dict[str, float]:
        """Seconds and CPU seconds for this number of batches."""
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        print(batches, file=self.process.stdin, flush=True)
        found = self._read()
        self._signal(signal.SIGSTOP)
        return found

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()


def measure(
    args: argparse.Namespace, more: dict[str, Any], module: str = "benchmarks.input"
) -> dict[str, Any]:
    """Measures all loaders in rounds.

    Args:
      more: further options of the child processes.
      module: that of the child processes; see `LoaderProcess`.
    """
    given = {name: getattr(args, name) for name in ("data", "size", "batch", "cores", "drain")}
    options = [f"--{name}={value}" for name, value in (given | more).items()]
    loaders = {}
    for peer in args.peers:
        python = sys.executable if peer.startswith(("ours", "Grain")) else args.peer_python
        loaders[peer] = LoaderProcess(peer, python, options, module)
        atexit.register(loaders[peer].close)  # a stopped process would never end
    absent = [peer for peer, loader in loaders.items() if loader.ready is None]
    for peer in absent:
        loaders.pop(peer).close()
        print(f"{peer}: is unavailable and skipped", file=sys.stderr)
    images = args.batches * args.batch
    rates: dict[str, list[float]] = {peer: [] for peer in loaders}
    cpu: dict[str, list[float]] = {peer: [] for peer in loaders}
    for _ in range(args.rounds):
        for peer, loader in loaders.items():
            found = loader.measure(args.batches)
            rates[peer].append(images / found["seconds"])
            cpu[peer].append(1e6 * found["cpu_seconds"] / images)
    for loader in loaders.values():
        loader.close()
    others = [peer for peer in loaders if peer != "ours"] if "ours" in loaders else []

    def ratios(over: list[float], under: list[float]) -> dict[str, float]:
        return spread([a / b for a, b in zip(over, under, strict=True)])

    return {
        "images_a_turn": images,
        "images_per_second": {peer: spread(values) for peer, values in rates.items()},
        "images_per_second_per_core": {
            peer: spread([value / args.cores for value in values]) for peer, values in rates.items()
        },
        "cpu_us_per_image": {peer: spread(values) for peer, values in cpu.items()},
        "ours_over": {peer: ratios(rates["ours"], rates[peer]) for peer in others},
        "ours_over_by_cpu_time": {peer: ratios(cpu[peer], cpu["ours"]) for peer in others},
        "processes": {peer: loader.ready for peer, loader in loaders.items()},
        "not_here": absent,
    }


def stages(files: list[str], size: int) -> dict[str, float]:
    """CPU time per image of each stage of ours, in microseconds: one thread, median of 5.

    Batches are filled in place, so that batching is not a stage. The remaining time of the loader
    is for the order, threads and waiting for memory.
    """
    import cv2
    import numpy as np

    from train.config import AugmentConfig
    from train.data.images.crops import random_crop
    from train.data.images.resize import resize_crop
    from train.data.philox import generator

    source, augment = source_of(files), AugmentConfig()
    view = np.empty((size, size, 3), np.uint8)
    clock = time.thread_time
    rounds: list[dict[str, float]] = []
    for epoch in range(6):
        sums = dict.fromkeys(("read", "decode", "resize", "flip"), 0.0)
        for k in range(STAGES):
            i = k % len(files)
            start = clock()
            image, _ = source[i]
            read = clock()
            crop = random_crop(image, size, augment, generator(0, epoch, i), max_pixels=10**8)
            decoded = clock()
            resize_crop(crop, size, view)
            resized = clock()
            if k % 2:
                cv2.flip(view, 1, dst=view)
            times = (read - start, decoded - read, resized - decoded, clock() - resized)
            for name, value in zip(sums, times, strict=True):
                sums[name] += 1e6 * value / STAGES
        rounds.append(sums)
    return {name: round(statistics.median(r[name] for r in rounds[1:]), 1) for name in rounds[0]}


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """The row of one invocation."""
    from train.plan.roofline import cores_for

    before = environment()
    with tempfile.TemporaryDirectory() as scratch:
        what = args.data.name
        if not args.data.is_dir():
            args.data = Path(scratch) / "synthetic"
            args.data.mkdir()
            write_synthetic(args.data)
            what = f"synthetic, because {what} does not exist"
        files = find(args.data)
        args.windows = Path(scratch) / "windows.npy"
        write_windows(files, args.windows)  # reads all files into the page cache
        kilobytes = sum(os.path.getsize(file) for file in files) / len(files) / 1000
        measured = measure(args, {"windows": args.windows})
        cost = measured["cpu_us_per_image"]["ours"]["median"]
        return {
            **before,
            "benchmark": "input",
            "data": {"name": what, "files": len(set(files)), "mean_kB": round(kilobytes, 1)},
            "cores": args.cores,
            "size": args.size,
            "batch": args.batch,
            "prefetch": PREFETCH,
            "rounds": args.rounds,
            **measured,
            "cores_for_1000_a_second": round(cores_for(1000, 1e6 / cost), 2),
            "ours_stages_cpu_us": stages(files, args.size),
            "load_after": round(os.getloadavg()[0], 2),
        }


def arguments(about: str, peers: Iterable[str], needs: str) -> argparse.ArgumentParser:
    """The options of this benchmark and of `benchmarks.augment`.

    Args:
      needs: what the Python of the peers has installed.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", type=Path, default=DATA, help="a folder with JPEGs in it")
    parser.add_argument("--peers", default=",".join(peers), help="any of the default")
    parser.add_argument("--peer_python", default=sys.executable, help=f"with {needs}")
    for name, value, text in (
        ("cores", os.cpu_count(), "threads of each loader"),
        ("size", 224, "pixels"),
        ("batch", 128, "images"),
        ("rounds", 7, "measurements of each loader"),
        ("batches", 8, "measured in a round"),
        ("drain", PREFETCH + 2, "batches before each measurement, not counted"),
    ):
        parser.add_argument(f"--{name}", type=at_least_one, default=value, help=text)
    parser.add_argument("--out", type=Path, help="append the result to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], LOADERS, "TensorFlow")
    parser.add_argument("--windows", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        try:
            files = find(args.data)
            loader = LOADERS[args.worker]
            return serve(loader(files, args.size, args.batch, args.cores, args.windows), args.drain)
        except (ImportError, ValueError) as error:  # our errors are ValueErrors
            raise SystemExit(f"{args.worker}: {error}") from None
    # Exit normally, so that child processes are closed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    args.peers = args.peers.split(",")
    if "ours" not in args.peers or set(args.peers) - set(LOADERS):
        parser.error(f"--peers: ours and any of {', '.join(LOADERS)}")
    emit({**bench(args), "command": command("input", sys.argv[1:])}, args.out)


if __name__ == "__main__":
    main()
