"""The input alone: JPEGs a second, on the whole and by stage, side by side with Grain and tf.data.

    python -m benchmarks.input [--data DIR] [--peers "ours,tf.data,tf.data our crops"] [--cores 2]
        [--rounds 7] [--batches 4] [--peer_python PYTHON] [--out benchmarks/results/input.jsonl]

Training batches from JPEG files: random resized crop to `--size` pixels, flip, uint8, two batches
ahead (`benchmarks/loaders.py` has them). Each loader runs in a process of its own with as many
decoding threads as `--cores`, and they take turns (A B A B ...). While one runs, the others are
stopped (SIGSTOP): nothing is read ahead in another's time. A turn first takes `--drain` batches,
uncounted, so that what was ready is gone, then measures `--batches`. All files were read once
before, so they come from memory, if they fit there.

One JSON line: device, versions, cores, images/s and images/s for each core (median, min, max over
turns), CPU time for an image (steadier where others use the machine too), ours / peer over rounds
in both, ours by stage, from one thread's CPU time, and the cores that 1,000 images/s take. Without
TensorFlow, tf.data is left out, and without DALI our way through it; `--peer_python` is another
Python, which has TensorFlow. Without the folder, synthetic pictures are used.
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
from pathlib import Path
from typing import Any

from benchmarks.loaders import (
    LOADERS,
    PREFETCH,
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
)
STAGES = 400  # images


def work(args: argparse.Namespace, files: list[str]) -> None:
    """A loader's process: warms up, then reads as many batches as each line of stdin says."""
    batches = LOADERS[args.worker](files, args.size, args.batch, args.cores, args.windows)
    for _ in range(args.drain):
        pixels = next(batches)
    facts = {"python": platform.python_version(), "versions": versions(PACKAGES)}
    print(json.dumps({**facts, "batch": [str(pixels.dtype), *pixels.shape]}), flush=True)
    for line in sys.stdin:
        for _ in range(args.drain):
            next(batches)
        since, before = time.perf_counter(), cpu_seconds()
        for _ in range(int(line)):
            next(batches)
        seconds, cpu = time.perf_counter() - since, cpu_seconds() - before
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu}), flush=True)


def cpu_seconds() -> float:
    """Of this process, and of those that it started."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in user and in system mode, see proc(5)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


class Turns:
    """The parent's end of a loader's process, which is stopped but for its turns."""

    def __init__(self, peer: str, python: str, options: list[str]):
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.input", "--worker", peer, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, to be stopped with what it starts
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

    def take(self, batches: int) -> dict[str, float]:
        """Seconds, and CPU seconds, of so many batches."""
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        print(batches, file=self.process.stdin, flush=True)
        found = self._read()
        self._signal(signal.SIGSTOP)
        return found

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()


def measure(args: argparse.Namespace, files: list[str]) -> dict[str, Any]:
    """All loaders in turn."""
    options = [f"--{name}={getattr(args, name)}" for name in ("data", "size", "batch", "cores")]
    options += [f"--drain={args.drain}", f"--windows={args.windows}"]
    pythons = {peer: args.peer_python if "tf" in peer else sys.executable for peer in args.peers}
    turns = {}
    for peer in args.peers:
        turns[peer] = Turns(peer, pythons[peer], options)
        atexit.register(turns[peer].close)  # or one that is stopped would stay
    absent = [peer for peer, it in turns.items() if it.ready is None]
    for peer in absent:
        turns.pop(peer).close()
        print(f"{peer}: does not run here, left out", file=sys.stderr)
    images = args.batches * args.batch
    rates: dict[str, list[float]] = {peer: [] for peer in turns}
    cpu: dict[str, list[float]] = {peer: [] for peer in turns}
    for _ in range(args.rounds):
        for peer, it in turns.items():
            found = it.take(args.batches)
            rates[peer].append(images / found["seconds"])
            cpu[peer].append(1e6 * found["cpu_seconds"] / images)
    for it in turns.values():
        it.close()
    others = [peer for peer in turns if peer != "ours"] if "ours" in turns else []

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
        "processes": {peer: it.ready for peer, it in turns.items()},
        "not_here": absent,
    }


def stages(files: list[str], size: int) -> dict[str, float]:
    """CPU microseconds for an image that each stage of ours takes, in one thread, medians of 5.

    Batches are filled in place, so there is no stage for them: what the whole takes more than these
    is the order, the threads and the wait for memory.
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
    """The result of one invocation."""
    from train.plan.roofline import cores_for

    before = environment()
    with tempfile.TemporaryDirectory() as scratch:
        what = args.data.name
        if not args.data.is_dir():
            args.data = Path(scratch) / "synthetic"
            args.data.mkdir()
            write_synthetic(args.data)
            what = f"synthetic, for there is no {what}"
        files = find(args.data)
        args.windows = Path(scratch) / "windows.npy"
        write_windows(files, args.windows)  # reads every file, so that all are in memory
        kilobytes = sum(os.path.getsize(file) for file in files) / len(files) / 1000
        measured = measure(args, files)
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


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="a folder with JPEGs in it")
    parser.add_argument("--peers", default=",".join(LOADERS), help="any of the default's")
    parser.add_argument("--peer_python", default=sys.executable, help="with TensorFlow")
    for name, value, text in (
        ("cores", os.cpu_count(), "threads of each loader"),
        ("size", 224, "pixels"),
        ("batch", 128, "images"),
        ("rounds", 7, "turns of each loader"),
        ("batches", 8, "measured in a turn"),
        ("drain", PREFETCH + 2, "batches taken before, uncounted"),
    ):
        parser.add_argument(f"--{name}", type=at_least_one, default=value, help=text)
    parser.add_argument("--out", type=Path, help="append the result to this file")
    parser.add_argument("--windows", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    if args.worker:
        try:
            return work(args, find(args.data))
        except (ImportError, ValueError) as error:  # our own errors are values'
            raise SystemExit(f"{args.worker}: {error}") from None
    # To end is to close what was started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    args.peers = args.peers.split(",")
    if "ours" not in args.peers or set(args.peers) - set(LOADERS):
        parser.error(f"--peers: ours and any of {', '.join(LOADERS)}")
    emit({**bench(args), "command": command("input", sys.argv[1:])}, args.out)


if __name__ == "__main__":
    main()
