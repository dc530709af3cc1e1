"""The most important measurements on one GPU, in one command and nine minutes.

    python -m benchmarks.h200 --out DIR [--only step cifar ...] [--cifar DIR] [--photos DIR]
    python -m benchmarks.h200 --out DIR --tiny    # a trial of all parts, without a GPU

  right     correctness: the tests of tests/test_gpu.py
  step      ResNet-50, bfloat16, batch 256: ours, torchvision eager and torch.compile, interleaved
  jax       ours against plain linen, and against ours with plain norms
  profile   the ten longest kernels of ours
  cifar     ResNet-20 as in its paper, with the images on the device: images/s; then training for as
            many steps as fit, and the accuracy. `--cifar` is the `--data.dir` of cifar10-resnet20;
            without it, images/s on random images, and the accuracy on the digits
  batches   ours with batch sizes 128, 512 and 1024
  photos    ResNet-50 on JPEG files: those of `--photos`, or synthetic ones

The most important part comes first. Each part has a share of the minutes, plus the time that
earlier parts did not use. Results are written to DIR at once: rows.jsonl, one line per result;
parts.jsonl, the exit of each command; log.txt, the output of the commands; and report.md.

The exit code is 1 if a command failed, ran out of time or was not started. A peer that is not
installed is not a failure: its row has an install hint. See docs/measure-gpu.md.
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

MIN_SECONDS = 10.0
"""With less remaining time, in seconds, no command is started."""


@dataclass(frozen=True)
class Folders:
    """Folders of results and other files, and the device of the tests."""

    out: Path
    scratch: Path
    device: str

    @property
    def rows(self) -> Path:
        return self.out / "rows.jsonl"

    @property
    def log(self) -> Path:
        return self.out / "log.txt"


def run(command: Command, seconds: float, folders: Folders) -> tuple[int, str]:
    """Runs `python` with these arguments; returns the exit code and how it ended.

    Its child processes end with it. Its output goes to the log.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {
        **os.environ,
        "PYTHONPATH": paths,
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folders.scratch / "cache"),
        "RESNET_JAX_TEST_ON": folders.device,
    }
    since = time.monotonic()
    with folders.log.open("a") as file:
        print("python", shlex.join(command), file=file, flush=True)
        start = file.tell()
        child = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=env,
            cwd=folders.scratch,
            start_new_session=True,
        )
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            return 1, f"stopped after {seconds:.0f} s: the time of this part is used up"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    ended = f"exit code {code} after {time.monotonic() - since:.0f} s"
    if code:
        output = folders.log.read_bytes()[start:].decode(errors="replace").split("\n")
        last = next((line for line in reversed(output) if line.strip()), "no output")
        ended += f": {last.strip()}"
    return code, ended


def run_part(name: str, part: Part, end: float, folders: Folders) -> list[Row]:
    """Runs a part's commands until `end` of `time.monotonic()`; returns how they ended."""
    found: list[Row] = []
    for command in part.commands(end - time.monotonic()):
        left = end - time.monotonic()
        if left < MIN_SECONDS:
            code, output = 1, f"not started: {max(left, 0):.0f} s are left"
        else:
            code, output = run(command, left, folders)
        row = {
            "part": name,
            "command": shlex.join(["python", *command]),
            "exit": code,
            "end": output,
        }
        with (folders.out / "parts.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{name}: {output}", flush=True)
        found.append(row)
    xml = folders.scratch / "right.xml"
    if xml.exists():
        emit({**tests(xml), **environment()}, folders.rows)
        xml.unlink()
    write_report(folders)
    return found


def tests(path: Path) -> Row:
    """The row of pytest's JUnit file: how many tests passed, and the names of failures."""
    cases = list(ElementTree.parse(path).iter("testcase"))
    failed = [
        case for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "benchmark": "right",
        "case": "tests/test_gpu.py",
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": len(failed),
        "skipped": len(skipped),
        "failures": [case.get("name") for case in failed],
    }


def write_report(folders: Folders) -> None:
    """Writes report.md, with tables of the rows so far."""
    if folders.rows.exists():
        text = "\n\n".join(report.tables(report.read([folders.rows])))
        (folders.out / "report.md").write_text(text + "\n")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the parts; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts, in this order")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10, as `--data.dir` of cifar10-resnet20")
    parser.add_argument("--photos", type=Path, help="JPEGs, as `--data.dir` of the recipe folder")
    parser.add_argument(
        "--scratch",
        type=Path,
        help="folder of synthetic data, programs and the run; default: a temporary folder",
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="of all parts together")
    parser.add_argument("--tiny", action="store_true", help="a trial with sizes for a CPU")
    given = parser.parse_args(args)
    for option, folder in (("--cifar", given.cifar), ("--photos", given.photos)):
        if folder and not folder.is_dir():
            parser.error(f"{option} {folder}: no such folder")
    out = given.out.absolute()
    with contextlib.ExitStack() as stack:
        scratch = given.scratch or stack.enter_context(tempfile.TemporaryDirectory())
        folders = Folders(out, Path(scratch).absolute(), "cpu" if given.tiny else "gpu")
        sizes = TINY if given.tiny else Sizes()
        all_parts = parts(folders.rows, folders.scratch, sizes, given.photos, given.cifar)
        if unknown := set(given.only or ()) - set(all_parts):
            parser.error(f"--only {', '.join(unknown)}: choose from {', '.join(all_parts)}")
        for folder in (out, folders.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        chosen = {name: all_parts[name] for name in given.only or all_parts}
        scale = 60 * given.minutes / sum(part.seconds for part in chosen.values())
        end, results = time.monotonic(), []
        for name, part in chosen.items():
            end += scale * part.seconds
            results += run_part(name, part, end, folders)
    if (out / "report.md").exists():
        print((out / "report.md").read_text())
    failed = [row for row in results if row["exit"]]
    for row in failed:
        print(f"failed: {row['part']}: {row['end']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
