"""Options that differ from those of the run in the directory."""

import json
import shutil
from collections.abc import Callable

from benchmarks.faults.harness import Harness, Outcome, expect, matches


def failed_start(harness: Harness) -> Outcome:
    run = harness.copy("run", "--optim.lr", "0.2")
    shutil.rmtree(run.checkpoints)
    run.end()
    matches(run, 0, "^$")
    says = next(s for s in run.out.read_text().splitlines() if "without a checkpoint" in s)
    row = run.outcome(
        "corrected options after a start that left no checkpoint", "trains to its end"
    )
    row.message = says.replace(f"{run.path.parent}/", "")
    return row


def other_options(harness: Harness) -> Outcome:
    run = harness.copy("run", "--duration", "500st").end()
    matches(run, 2, r"^error: workdir .* holds another run; .*add --extend")
    row = run.outcome("a longer duration", "")
    row.result = "with `--extend` it goes on, as the next row shows"
    return row


def extend(harness: Harness) -> Outcome:
    run = harness.copy("run", "--duration", "500st", "--extend")
    before = run.steps()[-1]
    matches(run.end(), 0, "^$")
    segments = json.loads((run.path / "config.json").read_text())["segments"]
    expect([s["from_step"] for s in segments] == [0, before], str(segments))
    row = run.outcome("the same with --extend", "config.json has two segments")
    row.message = next(s for s in run.out.read_text().splitlines() if s.startswith("extended from"))
    return row


def newer_version(harness: Harness) -> Outcome:
    run = harness.copy("run")
    path = run.path / "config.json"
    tree = json.loads(path.read_text())
    tree["optim"]["lookahead"] = 5
    path.write_text(json.dumps(tree))
    matches(run.end(), 2, r"^error: .*config.json: .*does not know optim.lookahead \(5\)")
    row = run.outcome("a config.json with a field of another version", "")
    del tree["optim"]["lookahead"]
    path.write_text(json.dumps(tree))
    row.result = f"deleted from the file, {harness.resumes(run)}"
    return row


CASES: dict[str, Callable[[Harness], Outcome]] = {
    "failed_start": failed_start,
    "other_options": other_options,
    "extend": extend,
    "newer_version": newer_version,
}
