"""Every fault that a run can meet, tried from the command line, with its message and exit code.

    python -m benchmarks.faults.errors [CASE ...] [--out FILE.md]

Runs the commands, checks exit codes, messages and the files that remain, and prints the table of
docs/faults.md. Needs root, for two small mounts. Exits with 1 if a check fails.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.faults.cases import data, options, signals, storage
from benchmarks.faults.child_run import default_signals
from benchmarks.faults.harness import Harness

CASES = {**signals.CASES, **storage.CASES, **data.CASES, **options.CASES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    args = parser.parse_args()
    default_signals()
    lines = ["| what was done | command | exit | says first | then |", "|---|---|---|---|---|"]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder))
        for name in args.cases or CASES:
            harness.folder = Path(folder) / name
            harness.folder.mkdir()
            try:
                outcome = CASES[name](harness)
            except (AssertionError, OSError, subprocess.SubprocessError, LookupError) as error:
                print(f"WRONG: {name}: {error!r}", flush=True)
                wrong += 1
                continue
            lines.append(outcome.line())
            print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    print(f"{len(lines) - 2} as expected, {wrong} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
