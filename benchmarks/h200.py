"""All that is worth measuring on one GPU, an H200 or another, in one command and nine minutes.

    python -m benchmarks.h200 --out DIR [--only step cifar ...] [--cifar DIR] [--photos DIR]
    python -m benchmarks.h200 --out DIR --tiny    # all of it where there is no GPU, to try it

  right     does it compute the right numbers? the tests of tests/test_gpu.py
  step      ResNet-50, bfloat16, batch 256: ours, torchvision eager and torch.compile, in turn
  jax       ours beside plain linen, and beside itself with plain norms
  profile   its ten longest kernels
  cifar     ResNet-20 as its paper trains it, the images on the device: images/s, then as many steps
            as fit, and the accuracy. `--cifar` is the `--data.dir` of cifar10-resnet20; without
            it, images/s on random images, and the accuracy on the digits
  batches   ours at batch 128, 512 and 1024
  photos    ResNet-50 from JPEG files on: those of `--photos`, or made-up ones

The most valuable part comes first. Each has its share of the minutes, and what earlier ones did
not use. Into DIR go, as soon as they exist: rows.jsonl, a line for each result; parts.jsonl, how
each command ended; log.txt, what they printed; and report.md.

The exit code is 1 if a command failed, ran out of time or was not reached. A peer that is not
installed is no failure: its row says what to install. docs/measure-gpu.md has the rest.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from benchmarks import report
from benchmarks.gpu_parts import ROOT, TINY, Command, Part, Sizes, parts
from benchmarks.record import Row, emit, environment

LEAST = 10.0
"""Seconds left, under which no command is begun."""


@dataclass(frozen=True)
class Place:
    """Where results and other files go, and on which device the tests run."""

    out: Path
    scratch: Path
    device: str

    @property
    def rows(self) -> Path:
        return self.out / "rows.jsonl"

    @property
    def log(self) -> Path:
        return self.out / "log.txt"


def run(command: Command, seconds: float, place: Place) -> tuple[int, str]:
    """Runs `python` with these arguments: its exit code, and how it ended.

    What it has started ends with it. Its output goes to the log.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {
        **os.environ,
        "PYTHONPATH": paths,
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(place.scratch / "cache"),
        "RESNET_JAX_TEST_ON": place.device,
    }
    since = time.monotonic()
    with place.log.open("a") as file:
        print("python", shlex.join(command), file=file, flush=True)
        start = file.tell()
        child = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=env,
            cwd=place.scratch,
            start_new_session=True,
        )
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            return 1, f"stopped after {seconds:.0f} s: its share of the time is used up"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    ended = f"exit code {code} after {time.monotonic() - since:.0f} s"
    if code:
        said = place.log.read_bytes()[start:].decode(errors="replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "nothing was said")
        ended += f": {last.strip()}"
    return code, ended


def run_part(name: str, part: Part, end: float, place: Place) -> list[Row]:
    """Runs a part's commands until `end`, of `time.monotonic()`; how each of them ended."""
    found: list[Row] = []
    for command in part.commands(end - time.monotonic()):
        left = end - time.monotonic()
        if left < LEAST:
            code, said = 1, f"not begun: {max(left, 0):.0f} s are left"
        else:
            code, said = run(command, left, place)
        row = {"part": name, "command": shlex.join(["python", *command]), "exit": code, "end": said}
        with (place.out / "parts.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{name}: {said}", flush=True)
        found.append(row)
    xml = place.scratch / "right.xml"
    if xml.exists():
        emit({**tests(xml), **environment()}, place.rows)
        xml.unlink()
    write_report(place)
    return found


def tests(path: Path) -> Row:
    """The row of a JUnit file of pytest: how many tests passed, and the names of the others."""
    cases = list(ElementTree.parse(path).iter("testcase"))
    bad = [
        case for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "benchmark": "right",
        "case": "tests/test_gpu.py",
        "passed": len(cases) - len(bad) - len(skipped),
        "failed": len(bad),
        "skipped": len(skipped),
        "failures": [case.get("name") for case in bad],
    }


def write_report(place: Place) -> None:
    """report.md: tables of the rows so far."""
    if place.rows.exists():
        text = "\n\n".join(report.tables(report.read([place.rows])))
        (place.out / "report.md").write_text(text + "\n")


def main(args: Sequence[str] | None = None) -> int:
    """Measures; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts, in this order")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10, as `--data.dir` of cifar10-resnet20")
    parser.add_argument("--photos", type=Path, help="JPEGs, as `--data.dir` of the recipe folder")
    parser.add_argument(
        "--scratch", type=Path, help="for made-up data, programs and the run; else deleted"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="of all parts together")
    parser.add_argument("--tiny", action="store_true", help="try it, at sizes for a CPU")
    given = parser.parse_args(args)
    for option, folder in (("--cifar", given.cifar), ("--photos", given.photos)):
        if folder and not folder.is_dir():
            parser.error(f"{option} {folder}: no such folder")
    out = given.out.absolute()
    with contextlib.ExitStack() as stack:
        scratch = given.scratch or stack.enter_context(tempfile.TemporaryDirectory())
        place = Place(out, Path(scratch).absolute(), "cpu" if given.tiny else "gpu")
        sizes = TINY if given.tiny else Sizes()
        every = parts(place.rows, place.scratch, sizes, given.photos, given.cifar)
        if unknown := set(given.only or ()) - set(every):
            parser.error(f"--only {', '.join(unknown)}: choose from {', '.join(every)}")
        for folder in (out, place.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        chosen = {name: every[name] for name in given.only or every}
        scale = 60 * given.minutes / sum(part.seconds for part in chosen.values())
        end, ends = time.monotonic(), []
        for name, part in chosen.items():
            end += scale * part.seconds
            ends += run_part(name, part, end, place)
    if (out / "report.md").exists():
        print((out / "report.md").read_text())
    failed = [row for row in ends if row["exit"]]
    for row in failed:
        print(f"failed: {row['part']}: {row['end']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
